// route_order: the slots sorted by expert, then by number, and where each expert's run begins.
// Floor: 8 bytes a slot; in fact every workgroup reads the table twice, from cache after the first time.
// Layout: a workgroup of 256 an expert; an invocation counts the hits of its own strip of slots and those of lower
// experts, sums over the workgroup say where it writes, and it goes through its strip again. Always the same order.
//
//   table  | strip 0 | strip 1 | ... | strip 255 |      order  | lower experts | hits of strip 0 | of strip 1 | ...
struct P { rows: u32, experts: u32, slots: u32, wants_order: u32, wants_offsets: u32 }

var<workgroup> hits: array<u32, 256>;
var<workgroup> lower: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = size(p.rows) * p.slots;
    let strip = (n + 255u) / 256u;
    let begin = min(n, lane * strip);
    let end = min(n, begin + strip);
    for (var e = group.x; e < p.experts; e += groups.x) {
        var own = 0u;
        var below = 0u;
        for (var slot = begin; slot < end; slot++) {
            let expert = table(slot);
            own += u32(expert == e);
            below += u32(expert < e);
        }
        hits[lane] = own;
        lower[lane] = below;
        workgroupBarrier();
        for (var reach = 1u; reach < 256u; reach <<= 1u) {
            var more = vec2(0u);
            if lane >= reach { more = vec2(hits[lane - reach], lower[lane - reach]); }
            workgroupBarrier();
            hits[lane] += more.x;
            lower[lane] += more.y;
            workgroupBarrier();
        }
        let first = lower[255];
        if lane == 0u && p.wants_offsets == 1u {
            set_offsets(e, first);
            if e + 1u == p.experts { set_offsets(p.experts, first + hits[255]); }
        }
        if p.wants_order == 1u {
            var place = first + hits[lane] - own;
            for (var slot = begin; slot < end; slot++) {
                if table(slot) == e {
                    set_order(place, slot);
                    place++;
                }
            }
        }
        workgroupBarrier();
    }
}
