//! S2: routing lets a query choose which aspect of a frame it is compared with.
//!
//! A frame shows appearance, motion and context at once, all with the same values; a caption names a factor and a value.
//! Who does not route finds three videos equally good. Only routing is on trial: the other modules are switched off, for
//! a perturbed speed would change what a motion means, and every frame is foreground.

use super::bars::{Bar, Rule, Table, difference};
use super::trained::{Recipe, recall, revised, train, world};
use super::{Claim, Effort, Job, Measures, Sweep, Variant, find};
use crate::data::Dataset;
use crate::data::worlds::factors::Query;
use crate::data::worlds::{Factors, Made};
use crate::engine::graph::Kind;
use crate::error::Result;
use crate::models::batch::Capacity;
use crate::models::cba::config::{Router, Routing, RoutingMode, Sharing, Trunk};
use crate::models::scorer::Scorer;
use crate::models::{Config, build, folder, plans};
use crate::train::TrainOptions;
use std::path::Path;

pub struct FactorsClaim;

/// An expert with less than this share of all pairs is not alive.
const ALIVE: f32 = 0.05;

impl Claim for FactorsClaim {
    fn name(&self) -> &'static str {
        "factors"
    }

    fn says(&self) -> &'static str {
        "query-adaptive routing emphasises the cue that a query asks for"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        let recipe = recipe(effort);
        let (options, plain) = (recipe.options(), |model| recipe.plain(model));
        let config = model(&recipe);
        let mut three = Variant::new("cba", "soft routing, an expert a factor", config, options.clone());
        if let Some(cba) = &mut three.config.cba {
            cba.routing.experts = 3;
        }
        let routed =
            |name: &str, about: &str, change: fn(&mut Routing)| three.with(name, about, |c| change(&mut c.routing));
        let eight = |r: &mut Routing| r.experts = 8;
        let dense = routed("dense", "a hidden layer with as many parameters", |r| r.mode = RoutingMode::Dense);
        let mixing = dense.with("dense-mixing", "and words that learn of their sentence", |c| c.trunk.mixing = true);
        let longer = TrainOptions { epochs: 3 * options.epochs, ..options.clone() };
        vec![
            Variant::new("token-interaction", "one expert, no trunk", plain("token-interaction"), options.clone()),
            three.clone(),
            routed("cba-4", "4 experts: one more than there are factors", |r| r.experts = 4),
            routed("cba-8", "soft routing, 8 experts", eight),
            routed("cba-8-token-2", "8 experts, 2 a token", |r| {
                (r.experts, r.slots, r.mode) = (8, 2, RoutingMode::TopkToken);
            }),
            routed("cba-4-query-2", "4 experts, the query's best 2", |r| {
                (r.experts, r.mode) = (4, RoutingMode::TopkQuery);
            }),
            routed("cba-8-token-3", "8 experts, 3 a token", |r| {
                (r.experts, r.slots, r.mode) = (8, 3, RoutingMode::TopkToken);
            }),
            routed("cba-frame-router", "without the query's part of the router", |r| r.router = Router::Frame),
            routed("cba-random-router", "with a router that is never learned", |r| r.router = Router::Random),
            routed("cba-full-experts", "experts that share nothing", |r| r.sharing = Sharing::Full),
            dense,
            mixing.clone(),
            Variant { options: longer, ..mixing.named("dense-mixing-3x", "the same with three times the steps") },
        ]
    }

    fn sweeps(&self, variants: &[Variant]) -> Vec<Sweep> {
        let Some(cba) = find(variants, "cba") else { return vec![] };
        vec![
            // A configuration may not keep more experts than there are, also where a mode ignores it.
            Sweep::setting(cba, "experts", &[1.0, 2.0, 3.0, 4.0, 8.0, 16.0], |c, x| {
                c.routing.experts = x as usize;
                c.routing.slots = c.routing.slots.min(c.routing.experts);
            }),
            Sweep::setting(cba, "rank", &[1.0, 4.0, 16.0, 64.0], |c, x| c.routing.rank = x as usize),
        ]
    }

    fn columns(&self) -> &'static [&'static str] {
        &["R@1", "NMI", "live experts", "R@1 other query", "R@1 same factor", "private MFLOP", "parameters"]
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world: Factors = world(job, &[("train", 2_000)])?;
        let model = train(job, &world.train()?.data, None, None)?;
        let Made { data, queries, .. } = world.test(0)?;
        let mut measures = Measures::new();
        measures.insert("R@1".into(), recall(job, &model, &data)?[0]);
        let (built, _) = folder::load(&model)?;
        measures.insert("parameters".into(), built.parameters().count() as f64);
        measures.insert("private MFLOP".into(), private_flops(built.config(), gallery_of(&data))? / 1e6);
        if built.config().cba.as_ref().is_some_and(|c| is_routed(c.routing.mode)) {
            let shares = shares(job, &model, &data)?;
            measures.insert("NMI".into(), nmi(&shares, &queries));
            measures.insert("live experts".into(), live(&shares));
            let stranger = revised(job, &model, "stranger", |cba| cba.routing.router = Router::Neighbour)?;
            for (name, same) in [("R@1 other query", false), ("R@1 same factor", true)] {
                let data = ordered(world.test(0)?, same);
                measures.insert(name.into(), recall(job, &stranger, &data)?[0]);
            }
        }
        Ok(measures)
    }

    fn percents(&self) -> &'static [&'static str] {
        &["R@1", "R@1 other query", "R@1 same factor"]
    }

    fn bars(&self) -> Vec<Bar> {
        let gain = |says: &str, rule, of: &'static str, over: &'static str| {
            Bar::new(says, rule, move |t: &Table| t.gain(of, over, "R@1"))
        };
        let value = |says: &str, rule, of: &'static str, measure: &'static str| {
            Bar::new(says, rule, move |t: &Table| t.values(of, measure))
        };
        let cost = |says: &str, most, measure: &'static str, of: &'static str, against: &'static str| {
            Bar::new(says, Rule::AtMost(most), move |t: &Table| {
                t.values(of, measure).iter().zip(t.values(against, measure)).map(|(a, b)| 100.0 * a / b).collect()
            })
        };
        vec![
            gain("R@1 over a dense layer as large", Rule::AtLeast(15.0), "cba", "dense"),
            gain(
                "R@1 over dense with mixed words and three times the steps",
                Rule::AtLeast(5.0),
                "cba",
                "dense-mixing-3x",
            ),
            value("NMI of the strongest expert and the factor asked for", Rule::AtLeast(0.85), "cba", "NMI"),
            Bar::new("R@1 lost with the router of a query for another factor", Rule::AtLeast(30.0), |t| {
                difference(&t.values("cba", "R@1"), &t.values("cba", "R@1 other query"))
            }),
            Bar::new("R@1 lost with the router of a query for the same factor", Rule::AtMost(2.0), |t| {
                difference(&t.values("cba", "R@1"), &t.values("cba", "R@1 same factor"))
            }),
            gain("R@1 of full experts less that of shared ones", Rule::AtMost(3.0), "cba-full-experts", "cba"),
            value("live experts of 4", Rule::AtLeast(3.0), "cba-4", "live experts"),
            value("live experts of 3", Rule::AtLeast(2.99), "cba", "live experts"),
            gain(
                "R@1 of soft routing less that of 2 of 8 experts a token",
                Rule::AtMost(1.0),
                "cba-8",
                "cba-8-token-2",
            ),
            cost("private FLOPs of 2 of 8 experts, % of all 8", 40.0, "private MFLOP", "cba-8-token-2", "cba-8"),
            gain("R@1 of soft routing less that of 3 of 8 experts a token", Rule::Reported, "cba-8", "cba-8-token-3"),
            gain("R@1 over a router without the query", Rule::AtLeast(15.0), "cba", "cba-frame-router"),
            gain("R@1 over a random router", Rule::AtLeast(3.0), "cba", "cba-random-router"),
            gain("R@1 of the query's best 2 of 4 experts less that of all", Rule::Reported, "cba-4-query-2", "cba-4"),
            value("NMI with 4 experts, of which two share a factor", Rule::Reported, "cba-4", "NMI"),
            Bar::new("R@1 lost by 4 experts with the router of a query for the same factor", Rule::Reported, |t| {
                difference(&t.values("cba-4", "R@1"), &t.values("cba-4", "R@1 same factor"))
            }),
        ]
    }
}

/// What is learned in this world, and for how long.
pub(super) fn recipe(effort: Effort) -> Recipe {
    // A motion is seen over all frames; a pooled vector cannot know which factor will be asked for.
    let trunk = Trunk { layers: 0, motion: 7, pooled: 0.0, ..Trunk::default() };
    Recipe {
        effort,
        tokens: 96,
        words: 2,
        frames: 8,
        // With half of them an expert of three serves two factors on some seeds.
        epochs: 20,
        batch: 64,
        learning_rate: 4e-3,
        temperature: 0.1,
        trunk,
    }
}

/// CBA as this world trains it.
pub(super) fn model(recipe: &Recipe) -> Config {
    let mut config = recipe.cba(&["counterfactual", "temporal"]);
    if let Some(cba) = &mut config.cba {
        // Without it what else a query says, its value, has a say in the gates as well.
        cba.routing.query_noise = 1.0;
        // Experts take a factor each before the router has a say; else two factors may come to share one.
        cba.routing.pace = 0.1;
    }
    config
}

fn is_routed(mode: RoutingMode) -> bool {
    !matches!(mode, RoutingMode::Off | RoutingMode::Dense)
}

/// A gallery as large as the data's.
fn gallery_of(data: &Dataset) -> Capacity {
    let videos = data.gallery();
    let frames = videos.iter().map(|v| data.videos.rows(*v)).sum();
    Capacity { texts: 1, words: 1, videos: videos.len(), frames }
}

/// FLOPs of what experts do not share, for a full gallery.
pub(super) fn private_flops(config: &Config, gallery: Capacity) -> Result<f64> {
    let model = build(config)?;
    let graph = plans::fill_gallery(model.as_ref(), gallery)?;
    let flops = graph.nodes.iter().map(|node| match &node.kind {
        Kind::Apply(op) if op.name() == "grouped_linear" => {
            let ins: Vec<_> = node.ins.iter().map(|v| graph.meta(*v)).collect();
            op.cost(&ins, &node.outs).flops as f64
        }
        _ => 0.0,
    });
    Ok(flops.sum())
}

/// Shares of the experts for each query with its own video.
fn shares(job: &Job, model: &Path, data: &Dataset) -> Result<Vec<Vec<f32>>> {
    let texts: Vec<usize> = data.pairs.iter().map(|p| p.text).collect();
    let gallery = data.gallery();
    let places: Vec<Option<usize>> = data.pairs.iter().map(|p| gallery.iter().position(|v| *v == p.video)).collect();
    let mut scorer = Scorer::open(model, (&*data.texts, texts), (&*data.videos, gallery), (job.open)()?)?;
    let matched = places.iter().enumerate().filter_map(|(i, place)| Some((i, (*place)?)));
    matched.map(|(text, video)| Ok(scorer.explain(text, video)?.shares())).collect()
}

fn strongest(shares: &[f32]) -> usize {
    (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap_or(0)
}

/// Mutual information of strongest expert and factor over the mean of their entropies.
fn nmi(shares: &[Vec<f32>], queries: &[Query]) -> f64 {
    let experts = shares.first().map_or(0, Vec::len);
    let factors = queries.iter().map(|q| q.factor + 1).max().unwrap_or(0);
    let mut joint = vec![vec![0.0f64; factors]; experts];
    for (shares, query) in shares.iter().zip(queries) {
        joint[strongest(shares)][query.factor] += 1.0;
    }
    let total: f64 = joint.iter().flatten().sum();
    if total <= 0.0 {
        return 0.0;
    }
    joint.iter_mut().flatten().for_each(|p| *p /= total);
    let rows: Vec<f64> = joint.iter().map(|r| r.iter().sum()).collect();
    let columns: Vec<f64> = (0..factors).map(|c| joint.iter().map(|r| r[c]).sum()).collect();
    let entropy = |p: &[f64]| -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
    let mut shared = 0.0;
    for (row, r) in joint.iter().zip(&rows) {
        for (p, c) in row.iter().zip(&columns).filter(|(p, _)| **p > 0.0) {
            shared += p * (p / (r * c)).ln();
        }
    }
    let mean = (entropy(&rows) + entropy(&columns)) / 2.0;
    if mean > 0.0 { shared / mean } else { 0.0 }
}

/// How many experts have a share worth the name.
fn live(shares: &[Vec<f32>]) -> f64 {
    let experts = shares.first().map_or(0, Vec::len);
    let mean = |e: usize| shares.iter().map(|s| s[e]).sum::<f32>() / shares.len().max(1) as f32;
    (0..experts).filter(|e| mean(*e) >= ALIVE).count() as f64
}

/// The queries in an order in which each stands beside one for the same factor, or for another.
fn ordered(made: Made<crate::data::worlds::factors::Video, Query>, same: bool) -> Dataset {
    let Made { mut data, queries, .. } = made;
    let mut order: Vec<usize> = (0..queries.len()).collect();
    if same {
        order.sort_by_key(|i| (queries[*i].factor, queries[*i].value));
    } else {
        order.sort_by_key(|i| (queries[*i].value, queries[*i].factor));
    }
    data.pairs = order.into_iter().map(|i| data.pairs[i]).collect();
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(factor: usize) -> Query {
        Query { factor, value: 0, correct: 0, distractors: vec![] }
    }

    #[test]
    fn information_is_all_or_nothing_at_the_ends() {
        let queries = [query(0), query(1), query(2), query(0), query(1), query(2)];
        let one_hot = |e: usize| (0..4).map(|i| if i == e { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        let told: Vec<_> = [3, 0, 2, 3, 0, 2].into_iter().map(one_hot).collect();
        assert!((nmi(&told, &queries) - 1.0).abs() < 1e-12);
        let mute: Vec<_> = (0..6).map(|_| one_hot(1)).collect();
        assert_eq!(nmi(&mute, &queries), 0.0);
        assert_eq!((live(&told), live(&mute)), (3.0, 1.0));
    }
}
