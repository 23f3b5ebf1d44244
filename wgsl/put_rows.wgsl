// put_rows: y[r] = part[r - begin] for begin <= r < begin + n, else x[r].
// Floor: 8 bytes an element of the run where y takes the place of x, else 8 an element of x; bound by bandwidth.
// Layout: an invocation an element. First the run, which lies side by side in y as in part; then everything else, unless
// it is there already: both names then stand for one place.
struct P { rows: u32, n: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = size(p.rows);
    let first = begin(0u);
    var here = 0u;
    if first < rows { here = min(size(p.n), rows - first); }
    for (var item = id.x; item < here * p.cols; item += groups.x * 256u) {
        set_y(first * p.cols + item, part(item));
    }
    if all(place_of_x() == place_of_y()) { return; }
    for (var item = id.x; item < rows * p.cols; item += groups.x * 256u) {
        // Below `first` the difference wraps round to a large number.
        if item / p.cols - first >= here { set_y(item, x(item)); }
    }
}
