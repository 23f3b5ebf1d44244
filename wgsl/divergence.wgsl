// Part of the kernels of consistency: what x = ln(p/q) / 2 says of two probabilities with mean m, and the soft-maxes of
// a line.
//
// JS = 1/2 sum m spread(x), spread = 2 (x tanh x - ln cosh x): no term is negative, so that nothing cancels where p and q
// are nearly equal. Near 0, tanh is a continued fraction and ln cosh x = atanh(t^2 / (2 - t^2)); far from it, what |x|
// cancels in x tanh x - ln cosh x is left out of both. Library logarithms of 1 + something small would lose the digits.

struct Ratio {
    // (p ln(p/m) + q ln(q/m)) / m
    spread: f32,
    // ln(q/m)
    log: f32,
    // The smaller of p and q as a part of the larger.
    part: f32,
}

fn atanh_small(s: f32) -> f32 {
    let q = s * s;
    return s * (1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0))))));
}

fn ratio(x: f32) -> Ratio {
    const LN2 = 0.69314718056;
    let h = abs(x);
    let part = exp(max(-2.0 * h, -87.0));
    let more = 2.0 * atanh_small(part / (2.0 + part));
    if h < 0.5 {
        let q = x * x;
        let t = x * ((945.0 + q * (105.0 + q)) / (945.0 + q * (420.0 + 15.0 * q)));
        let near = atanh_small(t * t / (2.0 - t * t));
        return Ratio(2.0 * (x * t - near), -x - near, part);
    }
    let lacking = 2.0 * h * (part / (1.0 + part));
    return Ratio(2.0 * (LN2 - lacking - more), LN2 - more - max(2.0 * x, 0.0), part);
}

struct Line { goal_top: f32, top: f32, goal_log: f32, log: f32, above: f32 }

fn line_of(scale: f32, goal_top: f32, top: f32, goal_total: f32, total: f32) -> Line {
    // Either total counts its largest term, 1.
    let a = max(goal_total, 1.0);
    let b = max(total, 1.0);
    return Line(goal_top, top, log(a), log(b), scale * (top - goal_top) + log(b / a));
}

// The parts of JS and of KL(q, m) that a pair of scores adds.
fn terms_of(line: Line, scale: f32, score_of_goal: f32, score: f32) -> vec2<f32> {
    let x = 0.5 * (scale * (score_of_goal - score) + line.above);
    let a = scale * (score_of_goal - line.goal_top) - line.goal_log;
    let b = scale * (score - line.top) - line.log;
    let larger = exp(max(max(a, b), -87.0));
    let r = ratio(x);
    let q = larger * select(1.0, r.part, x > 0.0);
    return vec2(0.25 * (larger * (1.0 + r.part)) * r.spread, q * r.log);
}
