//! Videos, texts, and which text describes which video.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::layout::{self, Listing};
use super::problem::Problems;
use super::source;
use super::tokens::{About, InMemory, Provenance, TokenSource, Tokens};
use crate::error::{Error, Result};

pub use super::layout::{Entry, Layout, Split};

/// A text and the video it describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Position in the texts.
    pub text: usize,
    /// Position in the videos.
    pub video: usize,
    /// Position in the list of distinct captions.
    pub caption: usize,
}

/// Keys for masking false negatives, one a pair: two pairs with an equal video or an equal caption are no negatives of
/// each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub video: Vec<u32>,
    pub caption: Vec<u32>,
}

/// One split of a data set. The sources may hold more than the split; `pairs` says what belongs to it.
pub struct Dataset {
    /// The name of the folder.
    pub name: String,
    pub split: Split,
    pub videos: Box<dyn TokenSource>,
    pub texts: Box<dyn TokenSource>,
    pub pairs: Vec<Pair>,
    /// Distinct captions, trimmed, otherwise as they are.
    pub captions: Vec<String>,
    /// Better keys than ids and captions give.
    known: Option<Keys>,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, split, pairs, captions, .. } = self;
        write!(f, "Dataset({name}, {split}, {} pairs, {} captions)", pairs.len(), captions.len())
    }
}

impl Dataset {
    /// Opens a split. Without `layout`, the folder's files show which it is. Features lie in `videos` and `texts`: a
    /// folder, a folder with one such folder a split (`videos/train`), or `videos.safetensors`.
    ///
    /// # Errors
    /// The first thing that is wrong, with file, id and what to do: missing or duplicate ids, missing captions,
    /// zero-length items, differing dims, features of another encoder in another split.
    pub fn open(dir: &Path, layout: Option<Layout>, split: Split) -> Result<Self> {
        Self::open_with(dir, layout, split, |_, problems| open_part(dir, "texts", split, problems))
    }

    /// A split whose texts are captions without features, for an encoder that makes them: a row of one 0 each.
    ///
    /// # Errors
    /// As [`Dataset::open`], of captions and videos.
    pub fn open_captions(dir: &Path, layout: Option<Layout>, split: Split) -> Result<Self> {
        Self::open_with(dir, layout, split, |listing, problems| {
            let mut seen = HashSet::new();
            let ids = listing.entries.iter().map(|entry| &entry.text_id).filter(|id| seen.insert(*id));
            let empty = || Tokens { rows: 1, dim: 1, data: vec![0.0] };
            let texts = InMemory::new(About::default(), ids.map(|id| (id.clone(), empty())).collect());
            let boxed = texts.map(|texts| Box::new(texts) as Box<dyn TokenSource>);
            boxed.map_err(|e| problems.add(&listing.place, "", e)).ok()
        })
    }

    fn open_with(
        dir: &Path,
        layout: Option<Layout>,
        split: Split,
        texts: impl FnOnce(&Listing, &mut Problems) -> Option<Box<dyn TokenSource>>,
    ) -> Result<Self> {
        let layout = layout.map_or_else(|| Layout::detect(dir), Ok)?;
        let mut problems = Problems::default();
        let mut listing = layout::read(dir, layout, split, &mut problems);
        let videos = open_part(dir, "videos", split, &mut problems);
        let texts = texts(&listing, &mut problems);
        if listing.entries.is_empty() && problems.errors() == 0 {
            problems.error(&listing.place, split.name(), "no captions are in this split", "choose another split");
        }
        let (Some(videos), Some(texts)) = (videos, texts) else {
            problems.refuse()?;
            return Err(Error::format(dir, "no features are here", "put them into videos/ and texts/"));
        };
        listing.fit(layout, &*videos, |entry| &mut entry.video_id);
        listing.fit(layout, &*texts, |entry| &mut entry.text_id);
        let (pairs, captions) = resolve(&listing, &*videos, &*texts, &mut problems);
        problems.refuse()?;
        let name = dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into());
        Ok(Self { name, split, videos, texts, pairs, captions, known: None })
    }

    /// The captions of all splits of a folder with their ids, each id once; features need not be there yet.
    ///
    /// # Errors
    /// The first line that cannot be read, or that there are none.
    pub fn captions_of(dir: &Path, layout: Option<Layout>) -> Result<Vec<(String, String)>> {
        let layout = layout.map_or_else(|| Layout::detect(dir), Ok)?;
        let (mut problems, mut seen, mut captions) = (Problems::default(), HashSet::new(), vec![]);
        for split in layout.splits(dir) {
            for entry in layout::read(dir, layout, split, &mut problems).entries {
                if seen.insert(entry.text_id.clone()) {
                    captions.push((entry.text_id, entry.caption));
                }
            }
        }
        problems.refuse()?;
        if captions.is_empty() {
            return Err(Error::format(dir, "has no captions", "see `moviola data check --help` for the layout"));
        }
        Ok(captions)
    }

    /// Whether the folder has captions of this split, or what looks like them.
    pub fn has(dir: &Path, layout: Layout, split: Split) -> bool {
        let mut problems = Problems::default();
        let listing = layout::read(dir, layout, split, &mut problems);
        !listing.entries.is_empty() || problems.errors() > 0
    }

    /// A data set from parts that are at hand.
    ///
    /// # Errors
    /// As [`Dataset::open`], for ids that are missing or occur twice.
    pub fn new(
        name: &str,
        split: Split,
        videos: Box<dyn TokenSource>,
        texts: Box<dyn TokenSource>,
        entries: Vec<Entry>,
    ) -> Result<Self> {
        let mut problems = Problems::default();
        let listing = Listing { place: PathBuf::from(name), entries };
        let (pairs, captions) = resolve(&listing, &*videos, &*texts, &mut problems);
        problems.refuse()?;
        Ok(Self { name: name.to_string(), split, videos, texts, pairs, captions, known: None })
    }

    /// The same data with `keys` of its own, for data of which more is known than ids and captions say.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one video key and one caption key a pair.
    pub fn with_keys(self, keys: Keys) -> Result<Self> {
        let (videos, captions, pairs) = (keys.video.len(), keys.caption.len(), self.pairs.len());
        if videos != pairs || captions != pairs {
            let what = format!("{videos} video keys and {captions} caption keys do not fit {pairs} pairs");
            return Err(Error::shape("with_keys", what));
        }
        Ok(Self { known: Some(keys), ..self })
    }

    /// The videos of this split, in the order in which pairs first name them: the gallery of a retrieval test.
    pub fn gallery(&self) -> Vec<usize> {
        let mut seen = HashSet::new();
        self.pairs.iter().map(|pair| pair.video).filter(|video| seen.insert(*video)).collect()
    }

    /// For each video of the gallery, the positions of its pairs.
    pub fn captions_per_video(&self) -> Vec<Vec<usize>> {
        let places: HashMap<usize, usize> = self.gallery().into_iter().zip(0..).collect();
        let mut lists = vec![Vec::new(); places.len()];
        for (p, pair) in self.pairs.iter().enumerate() {
            if let Some(list) = places.get(&pair.video).and_then(|&place| lists.get_mut(place)) {
                list.push(p);
            }
        }
        lists
    }

    /// How many different caption strings there are; fewer than pairs if some are identical.
    pub fn distinct_captions(&self) -> usize {
        self.captions.len()
    }

    /// The caption of a pair.
    pub fn caption(&self, pair: &Pair) -> &str {
        self.captions.get(pair.caption).map_or("", String::as_str)
    }

    /// One video key and one caption key a pair.
    pub fn keys(&self) -> Keys {
        if let Some(known) = &self.known {
            return known.clone();
        }
        // Positions fit: sources refuse more than 2³² ids, and captions are no more than texts.
        Keys {
            video: self.pairs.iter().map(|pair| pair.video as u32).collect(),
            caption: self.pairs.iter().map(|pair| pair.caption as u32).collect(),
        }
    }
}

/// Turns ids into positions; what is missing or doubled becomes a problem.
pub(crate) fn resolve(
    listing: &Listing,
    videos: &dyn TokenSource,
    texts: &dyn TokenSource,
    problems: &mut Problems,
) -> (Vec<Pair>, Vec<String>) {
    let mut captions = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut lines: HashMap<&str, u64> = HashMap::new();
    let mut absent: HashSet<&str> = HashSet::new();
    let mut pairs = Vec::new();
    for entry in &listing.entries {
        if let Some(earlier) = lines.insert(&entry.text_id, entry.line) {
            let what = format!("this text occurs twice, in line {earlier} and line {}", entry.line);
            problems.error(&listing.place, &entry.text_id, what, "give each caption an id of its own");
            continue;
        }
        let said = format!("{} line {}", listing.place.display(), entry.line);
        let video = videos.find(&entry.video_id);
        if video.is_none() && absent.insert(&entry.video_id) {
            missing("video", &entry.video_id, &said, videos.provenance(), problems);
        }
        let text = texts.find(&entry.text_id);
        if text.is_none() {
            missing("text", &entry.text_id, &said, texts.provenance(), problems);
        }
        let (Some(video), Some(text)) = (video, text) else { continue };
        let caption = *known.entry(&entry.caption).or_insert_with(|| {
            captions.push(entry.caption.clone());
            captions.len() - 1
        });
        pairs.push(Pair { text, video, caption });
    }
    (pairs, captions)
}

fn missing(kind: &str, id: &str, said: &str, place: &Provenance, problems: &mut Problems) {
    let what = format!("no features for this {kind}, which {said} names");
    problems.error(&place.path, id, what, format!("encode the {kind}, or remove its captions"));
}

/// Where the features of `split` lie, and of the other splits if they lie apart.
pub(crate) fn places(dir: &Path, part: &str) -> Vec<(Option<Split>, PathBuf)> {
    let base = dir.join(part);
    let apart: Vec<_> = Split::ALL
        .into_iter()
        .map(|split| (Some(split), base.join(split.name())))
        .filter(|(_, place)| place.is_dir())
        .collect();
    let file = dir.join(format!("{part}.safetensors"));
    match (apart.is_empty(), base.exists(), file.exists()) {
        (false, ..) => apart,
        (true, false, true) => vec![(None, file)],
        _ => vec![(None, base)],
    }
}

/// The source of one split; siblings must come from the same encoder.
fn open_part(dir: &Path, part: &str, split: Split, problems: &mut Problems) -> Option<Box<dyn TokenSource>> {
    let places = places(dir, part);
    let Some((_, own)) = places.iter().find(|(s, _)| s.is_none_or(|s| s == split)) else {
        let expected = dir.join(part).join(split.name());
        problems.error(&expected, "", format!("the features of {split} are missing"), "encode them into this folder");
        return None;
    };
    let source = source::scan(own, problems)?;
    for (_, other) in places.iter().filter(|(_, place)| place != own) {
        // What is wrong within the other split does not matter here.
        if let Some(other) = source::scan(other, &mut Problems::default()) {
            same_encoder(&*source, &*other, problems);
        }
    }
    Some(source)
}

/// Features of two splits must have the same dim, encoder, layer, normalisation and sentence rows.
pub(crate) fn same_encoder(a: &dyn TokenSource, b: &dyn TokenSource, problems: &mut Problems) {
    let (own, other) = (&a.provenance().about, &b.provenance().about);
    let flag = |value: Option<bool>| value.map(|value| value.to_string());
    let facts = [
        ("dim", Some(a.dim().to_string()), Some(b.dim().to_string())),
        ("encoder", own.encoder.clone(), other.encoder.clone()),
        ("layer", own.layer.clone(), other.layer.clone()),
        ("normalised", flag(own.normalised), flag(other.normalised)),
        ("sentence", flag(own.sentence), flag(other.sentence)),
    ];
    for (fact, own, other) in facts {
        if let (Some(own), Some(other)) = (own, other)
            && own != other
        {
            let what = format!("the {fact} is {own}, in {} it is {other}", b.provenance().path.display());
            problems.error(&a.provenance().path, fact, what, "encode all splits with the same encoder and settings");
        }
    }
}
