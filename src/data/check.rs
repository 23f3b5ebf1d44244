//! Everything that is wrong with a data set, in one pass.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::convert::not_unit;
use super::dataset::{Layout, Split, places, resolve, same_encoder};
use super::folder::{is_noise, names};
use super::inspect::dataset_layout;
use super::layout::{self, Listing};
use super::problem::{Problem, Problems, Severity};
use super::source;
use super::tokens::{TokenDtype, TokenSource};

/// What [`check`] found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub path: PathBuf,
    pub layout: Option<Layout>,
    pub summary: Summary,
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether the data can be used as they are.
    pub fn is_usable(&self) -> bool {
        self.summary.errors == 0
    }
}

/// Counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub errors: usize,
    pub warnings: usize,
    pub infos: usize,
    pub splits: Vec<SplitSummary>,
    pub sources: Vec<SourceSummary>,
}

/// A split's usable pairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitSummary {
    pub split: Split,
    pub pairs: usize,
    pub videos: usize,
    pub distinct_captions: usize,
}

/// A source's sound items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceSummary {
    pub place: PathBuf,
    pub items: usize,
    pub rows: u64,
    pub dim: usize,
    /// `None` where files differ.
    pub dtype: Option<TokenDtype>,
}

/// A source and the split whose features it holds, `None` for all splits.
struct Part {
    split: Option<Split>,
    source: Box<dyn TokenSource>,
}

/// Reads every file, every value and every caption below `path`, a data set or features alone.
pub fn check(path: &Path) -> Report {
    let mut problems = Problems::default();
    let mut summary = Summary::default();
    let mut found = None;
    match dataset_layout(path) {
        Err(error) => problems.add(path, "", error),
        Ok(None) => {
            if let Some(source) = source::scan(path, &mut problems) {
                summary.sources.push(check_source(&*source, &mut problems));
            }
        }
        Ok(Some(layout)) => {
            found = Some(layout);
            check_dataset(path, layout, &mut summary, &mut problems);
        }
    }
    let count = |severity| problems.list().iter().filter(|problem| problem.severity == severity).count();
    summary.errors = count(Severity::Error);
    summary.warnings = count(Severity::Warning);
    summary.infos = count(Severity::Info);
    Report { path: path.to_path_buf(), layout: found, summary, problems: problems.into_list() }
}

fn check_dataset(dir: &Path, layout: Layout, summary: &mut Summary, problems: &mut Problems) {
    let videos = parts(dir, "videos", summary, problems);
    let texts = parts(dir, "texts", summary, problems);
    strangers(dir, layout, problems);
    let splits = layout.splits(dir);
    for split in Split::ALL.into_iter().filter(|split| !splits.contains(split)) {
        problems.info(dir, split.name(), "this split is not here, or has no captions", "nothing, if that is meant");
    }
    let mut listings = Vec::new();
    for split in splits {
        let mut met = Problems::default();
        let mut listing = layout::read(dir, layout, split, &mut met);
        problems.add_new(met);
        let [v, t] = [&videos, &texts].map(|parts| parts.iter().find(|part| part.split.is_none_or(|own| own == split)));
        if let Some(v) = v {
            listing.fit(layout, &*v.source, |entry| &mut entry.video_id);
        }
        if let Some(t) = t {
            listing.fit(layout, &*t.source, |entry| &mut entry.text_id);
        }
        if let (Some(v), Some(t)) = (v, t)
            && !listing.entries.is_empty()
        {
            let (pairs, captions) = resolve(&listing, &*v.source, &*t.source, problems);
            let videos = pairs.iter().map(|pair| pair.video).collect::<HashSet<_>>().len();
            summary.splits.push(SplitSummary { split, pairs: pairs.len(), videos, distinct_captions: captions.len() });
        }
        identical(&listing, split, problems);
        listings.push((split, listing));
    }
    if listings.iter().all(|(_, listing)| listing.entries.is_empty()) && problems.errors() == 0 {
        problems.error(dir, "", "no split has captions", "see docs/layouts.md for what the layout needs");
    }
    leaks(&listings, problems);
    orphans(&videos, &listings, |entry| &entry.video_id, problems);
    orphans(&texts, &listings, |entry| &entry.text_id, problems);
    if let (Some(v), Some(t)) = (videos.first(), texts.first()) {
        related(&*v.source, &*t.source, problems);
    }
}

/// Opens and checks the sources of `videos` or `texts`.
fn parts(dir: &Path, part: &str, summary: &mut Summary, problems: &mut Problems) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (split, place) in places(dir, part) {
        if let Some(source) = source::scan(&place, problems) {
            summary.sources.push(check_source(&*source, problems));
            if let Some(first) = parts.first() {
                same_encoder(&*source, &*first.source, problems);
            }
            parts.push(Part { split, source });
        }
    }
    parts
}

/// Every value of every item, and the checksums.
fn check_source(source: &dyn TokenSource, problems: &mut Problems) -> SourceSummary {
    source.verify(problems);
    let dim = source.dim();
    let path = &source.provenance().path;
    let looked: Vec<_> = (0..source.len())
        .into_par_iter()
        .map_init(Vec::new, |buffer: &mut Vec<f32>, i| {
            buffer.resize(source.rows(i).saturating_mul(dim), 0.0);
            source.load_into(i, buffer)?;
            let silent = buffer.chunks_exact(dim.max(1)).position(|row| row.iter().all(|v| *v == 0.0));
            Ok((silent, not_unit(buffer, dim)))
        })
        .collect();
    let mut long: Option<(&str, usize, f32)> = None;
    let mut count = 0;
    for (id, looked) in source.ids().iter().zip(looked) {
        match looked {
            Err(error) => problems.add(path, id, error),
            Ok((silent, not_unit)) => {
                if let Some(row) = silent {
                    let what = format!("row {row} is all zeros, as failed decoding leaves it");
                    problems.warning(path, id, what, "encode it again, or remove it together with its captions");
                }
                if let Some((row, length)) = not_unit {
                    long.get_or_insert((id, row, length));
                    count += 1;
                }
            }
        }
    }
    if let (Some(true), Some((id, row, length))) = (source.provenance().about.normalised, long) {
        let what =
            format!("row {row} has length {length}, as {count} items have such rows, though all are said to be 1");
        problems.error(path, id, what, "normalise the features, or say they are not normalised");
    }
    SourceSummary {
        place: path.clone(),
        items: source.len(),
        rows: (0..source.len()).map(|i| source.rows(i) as u64).sum(),
        dim,
        dtype: source.provenance().dtype,
    }
}

/// Files that the layout does not know.
fn strangers(dir: &Path, layout: Layout, problems: &mut Problems) {
    const KNOWN: [&str; 11] = [
        super::worlds::common::WORLD,
        super::worlds::common::TRUTH,
        super::worlds::common::QUERIES,
        super::worlds::common::TESTS,
        super::worlds::rendered::PREVIEW,
        super::pictures::CLIPS,
        super::pictures::FRAMES,
        "videos",
        "texts",
        "videos.safetensors",
        "texts.safetensors",
    ];
    match names(dir) {
        Err(error) => problems.add(dir, "", error),
        Ok(names) => {
            let known = |name: &str| KNOWN.contains(&name) || layout.knows(name) || is_noise(name);
            for name in names.iter().filter(|name| !known(name)) {
                let what = format!("the layout {} knows no such file, it is not read", layout.name());
                problems.warning(&dir.join(name), "", what, "remove it");
            }
        }
    }
}

/// Captions that several texts share: false negatives unless they are masked.
fn identical(listing: &Listing, split: Split, problems: &mut Problems) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &listing.entries {
        *counts.entry(&entry.caption).or_default() += 1;
    }
    let shared: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 1).collect();
    if let Some((example, _)) = shared.first() {
        let texts: usize = shared.iter().map(|(_, count)| count).sum();
        let what = format!("{texts} texts share {} captions word for word, such as {example:?}", shared.len());
        problems.info(&listing.place, split.name(), what, "nothing: they are masked as false negatives");
    }
}

/// Videos that occur in two splits.
fn leaks(listings: &[(Split, Listing)], problems: &mut Problems) {
    let mut home: HashMap<&str, Split> = HashMap::new();
    for (split, listing) in listings {
        let mut told = HashSet::new();
        for entry in &listing.entries {
            let first = *home.entry(&entry.video_id).or_insert(*split);
            if first != *split && told.insert(&entry.video_id) {
                let what = format!("this video is in {first} and in {split}");
                problems.warning(&listing.place, &entry.video_id, what, "keep it in one split, or results mean little");
            }
        }
    }
}

/// Features that no caption names.
fn orphans(
    parts: &[Part],
    listings: &[(Split, Listing)],
    id_of: impl Fn(&layout::Entry) -> &String,
    problems: &mut Problems,
) {
    for part in parts {
        let named: HashSet<&String> = listings
            .iter()
            .filter(|(split, _)| part.split.is_none_or(|own| own == *split))
            .flat_map(|(_, listing)| listing.entries.iter().map(&id_of))
            .collect();
        let left: Vec<_> = part.source.ids().iter().filter(|id| !named.contains(id)).collect();
        if let Some(first) = left.first() {
            let what = format!("{} items, of which this is the first, are named by no caption", left.len());
            problems.warning(&part.source.provenance().path, first, what, "add their captions, or remove them");
        }
    }
}

/// An encoder's name and hash, without what was made of it otherwise: patches of its pictures and longer texts lie in the
/// space that both of its towers share.
fn weights(encoder: &str) -> &str {
    let positions = |made: &str| {
        let number = made.strip_suffix(" positions").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    };
    match encoder.rsplit_once(", ") {
        Some((before, made)) if made == "patches" || positions(made) => weights(before),
        _ => encoder,
    }
}

/// Whether videos and texts can meet.
fn related(videos: &dyn TokenSource, texts: &dyn TokenSource, problems: &mut Problems) {
    let (v, t) = (videos.provenance(), texts.provenance());
    if videos.dim() != texts.dim() {
        let what = format!("texts have {} values a row, videos {}", texts.dim(), videos.dim());
        problems.warning(&t.path, "dim", what, "use one encoder for both, or a model that projects them");
    }
    if let (Some(a), Some(b)) = (&v.about.encoder, &t.about.encoder)
        && weights(a) != weights(b)
    {
        let what = format!("texts come from {b}, videos from {a}");
        problems.warning(&t.path, "encoder", what, "use one encoder for both, unless this is meant");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_otherwise_is_still_of_the_same_weights() {
        for (encoder, expected) in [
            ("clip@01ab", "clip@01ab"),
            ("clip@01ab, 248 positions", "clip@01ab"),
            ("a, b@c@01ab, patches", "a, b@c@01ab"),
            ("clip@01ab, 248 positions, patches", "clip@01ab"),
            ("CLIP, by hand", "CLIP, by hand"),
            ("clip@01ab, layer 11", "clip@01ab, layer 11"),
            ("clip@01ab, all positions", "clip@01ab, all positions"),
            ("", ""),
        ] {
            assert_eq!(weights(encoder), expected);
        }
    }
}
