//! placeholder until merged
pub fn fuse(g: &super::graph::Graph) -> super::graph::Graph {
    g.clone()
}
