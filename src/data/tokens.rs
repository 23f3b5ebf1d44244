//! Rows of tokens and where they come from.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::media::Origin;
use super::problem::Problems;
use super::shard::sound_times;
use crate::error::{Error, Result};

/// Largest number of values in one item: 2³², that is 16 GiB of f32.
pub const VALUES_LIMIT: u64 = 1 << 32;

/// The tokens of one video or text, `[rows, dim]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    pub rows: usize,
    pub dim: usize,
    pub data: Vec<f32>,
}

impl Tokens {
    /// Row `r`, `[dim]`; empty beyond the last row.
    pub fn row(&self, r: usize) -> &[f32] {
        self.data.chunks_exact(self.dim.max(1)).nth(r).unwrap_or(&[])
    }
}

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenDtype {
    F16,
    Bf16,
    F32,
    F64,
}

impl TokenDtype {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Bytes of `[rows, dim]` values, or `None` where that overflows or passes [`VALUES_LIMIT`].
    pub fn bytes_of(self, rows: u64, dim: u64) -> Option<u64> {
        let values = rows.checked_mul(dim).filter(|&values| values <= VALUES_LIMIT)?;
        values.checked_mul(self.size() as u64)
    }
}

/// What the tokens describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Video,
    Text,
}

/// What a person says about features: from a manifest, from `provenance.json` beside the files, or from the metadata of
/// a safetensors file. Features of one encoder make sense only with features of the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// For example `openai/clip-vit-base-patch32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Whether rows have length 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalised: Option<bool>,
    /// Frames a second at which the video was sampled: row j shows second j / fps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f32>,
    /// Whether the last row of a text is its sentence vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<bool>,
    /// Where videos were decoded from, and which of their frames were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The folder of the pictures that the rows were made of, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<PathBuf>,
}

/// How a source is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceFormat {
    Native,
    NpyFolder,
    Safetensors,
    Memory,
}

/// Where tokens come from and what is known about them.
#[derive(Debug, Clone, Serialize)]
pub struct Provenance {
    pub path: PathBuf,
    pub format: SourceFormat,
    /// `None` where files differ.
    pub dtype: Option<TokenDtype>,
    #[serde(flatten)]
    pub about: About,
}

impl Provenance {
    /// Whether the last row of every text is a sentence vector; otherwise the model takes the mean of the words.
    pub fn has_sentence(&self) -> bool {
        self.about.sentence == Some(true)
    }
}

/// Tokens by id, in a fixed order; loading is safe from many threads.
pub trait TokenSource: Send + Sync {
    fn ids(&self) -> &[String];
    /// Values a row.
    fn dim(&self) -> usize;
    /// Rows of item `i`, at least 1; 0 beyond the last item.
    fn rows(&self, i: usize) -> usize;
    /// Writes item `i` as f32 to `out`, `[rows(i), dim]`, without allocating.
    ///
    /// # Errors
    /// [`Error::Data`] names id, row and column of a value that is NaN or infinite; [`Error::Shape`] if `out` has another
    /// length; [`Error::Io`] and [`Error::Format`] if the file changed since it was opened.
    fn load_into(&self, i: usize, out: &mut [f32]) -> Result<()>;
    /// Seconds of each row of item `i`, `[rows(i)]`, where they are known.
    fn timestamps(&self, i: usize) -> Option<Cow<'_, [f32]>>;
    /// The file that item `i` was made of, within the folder of its [`Origin`].
    fn file(&self, _: usize) -> Option<&str> {
        None
    }
    fn provenance(&self) -> &Provenance;
    /// The position of `id`.
    fn find(&self, id: &str) -> Option<usize>;

    /// Reads everything and compares it with the checksums of the format, where it has some.
    fn verify(&self, _problems: &mut Problems) {}

    /// Item `i`, freshly allocated.
    fn load(&self, i: usize) -> Result<Tokens> {
        let (rows, dim) = (self.rows(i), self.dim());
        let mut data = vec![0.0; rows.saturating_mul(dim)];
        self.load_into(i, &mut data)?;
        Ok(Tokens { rows, dim, data })
    }

    fn len(&self) -> usize {
        self.ids().len()
    }

    fn is_empty(&self) -> bool {
        self.ids().is_empty()
    }
}

/// Ids in their order, with a sorted index: no second copy of the strings.
#[derive(Debug, Default)]
pub struct Ids {
    names: Vec<String>,
    sorted: Vec<u32>,
}

impl Ids {
    /// # Errors
    /// The positions (earlier, later) of two equal ids.
    pub fn new(names: Vec<String>) -> Result<Self, (usize, usize)> {
        // More than 2³² ids do not fit in memory as strings; the check keeps the cast honest.
        let count = u32::try_from(names.len()).map_err(|_| (0, 0))?;
        let mut sorted: Vec<u32> = (0..count).collect();
        let name = |&i: &u32| names.get(i as usize).map(String::as_str).unwrap_or("");
        sorted.sort_by(|a, b| name(a).cmp(name(b)).then(a.cmp(b)));
        let twin = sorted.windows(2).find_map(|pair| match pair {
            [a, b] if name(a) == name(b) => Some((*a as usize, *b as usize)),
            _ => None,
        });
        match twin {
            Some(twin) => Err(twin),
            None => Ok(Self { names, sorted }),
        }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn find(&self, id: &str) -> Option<usize> {
        let name = |&i: &u32| self.names.get(i as usize).map(String::as_str).unwrap_or("");
        let at = self.sorted.binary_search_by(|i| name(i).cmp(id)).ok()?;
        self.sorted.get(at).map(|&i| i as usize)
    }
}

/// Little-endian `bytes` of one item as finite f32 values in `out`.
pub(crate) fn decode(
    place: &Path,
    id: &str,
    dtype: TokenDtype,
    bytes: &[u8],
    dim: usize,
    out: &mut [f32],
) -> Result<()> {
    if bytes.len() != out.len().saturating_mul(dtype.size()) {
        let what = format!("{id}: {} bytes of {} cannot fill {} values", bytes.len(), dtype.name(), out.len());
        return Err(Error::shape("load_into", what));
    }
    widen(dtype, bytes, out);
    finite(place, id, dim, out)
}

/// Little-endian `bytes` as f32; as many as both sides hold.
pub(crate) fn widen(dtype: TokenDtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        TokenDtype::F32 => spread(bytes, out, f32::from_le_bytes),
        TokenDtype::F64 => spread(bytes, out, |b| f64::from_le_bytes(b) as f32),
        TokenDtype::F16 => match bytemuck::try_cast_slice::<u8, half::f16>(bytes) {
            Ok(values) if cfg!(target_endian = "little") && values.len() == out.len() => {
                values.convert_to_f32_slice(out);
            }
            _ => spread(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
        },
        TokenDtype::Bf16 => spread(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
    }
}

/// Refuses NaN and infinities, naming row and column.
pub(crate) fn finite(place: &Path, id: &str, dim: usize, values: &[f32]) -> Result<()> {
    // A maximum of integers vectorises, a search or a sum of floats does not.
    let largest = values.iter().fold(0, |largest, v| (v.to_bits() & 0x7fff_ffff).max(largest));
    if largest < f32::INFINITY.to_bits() {
        return Ok(());
    }
    let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let value = values.get(at).copied().unwrap_or(f32::NAN);
    let what = format!("row {}, column {} is {value}", at / dim.max(1), at % dim.max(1));
    Err(Error::data(place.display().to_string(), id, what, "encode it again, or remove it together with its captions"))
}

fn spread<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (values, _) = bytes.as_chunks::<N>();
    for (o, v) in out.iter_mut().zip(values) {
        *o = convert(*v);
    }
}

/// Values as little-endian bytes, appended to `bytes`.
///
/// # Errors
/// [`Error::Data`] for a value that is not finite, or beyond ±65504 in f16.
pub(crate) fn encode(
    place: &Path,
    id: &str,
    dtype: TokenDtype,
    dim: usize,
    values: &[f32],
    bytes: &mut Vec<u8>,
) -> Result<()> {
    finite(place, id, dim, values)?;
    match dtype {
        TokenDtype::F32 => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        TokenDtype::F64 => bytes.extend(values.iter().flat_map(|v| f64::from(*v).to_le_bytes())),
        TokenDtype::F16 => {
            if let Some(at) = values.iter().position(|v| half::f16::from_f32(*v).is_infinite()) {
                let what = format!("row {}, column {} is too large for f16", at / dim.max(1), at % dim.max(1));
                return Err(Error::data(place.display().to_string(), id, what, "write f32"));
            }
            bytes.extend(values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()));
        }
        TokenDtype::Bf16 => bytes.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())),
    }
    Ok(())
}

/// Row times at a constant rate: row j shows second j / fps.
pub(crate) fn times_at(fps: f32, rows: usize) -> Cow<'static, [f32]> {
    Cow::Owned((0..rows).map(|j| j as f32 / fps).collect())
}

/// Tokens held in memory: for tests, and for callers that have encoded something themselves.
#[derive(Debug)]
pub struct InMemory {
    ids: Ids,
    items: Vec<Tokens>,
    /// Seconds of each row of each item; none at all where `about.fps` says it.
    times: Vec<Vec<f32>>,
    dim: usize,
    provenance: Provenance,
}

impl InMemory {
    /// # Errors
    /// [`Error::Data`] for duplicate ids, items without rows, differing dims, values that are not finite.
    pub fn new(about: About, items: Vec<(String, Tokens)>) -> Result<Self> {
        let place = Path::new("memory");
        let dim = items.first().map_or(0, |(_, tokens)| tokens.dim);
        for (id, tokens) in &items {
            if tokens.rows == 0 || tokens.dim != dim || tokens.rows.checked_mul(dim) != Some(tokens.data.len()) {
                let what = format!("[{}, {}] with {} values", tokens.rows, tokens.dim, tokens.data.len());
                return Err(Error::data("memory", id, what, format!("give at least one row of {dim} values")));
            }
            finite(place, id, dim, &tokens.data)?;
        }
        let (names, items): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let twin = |(_, later): (usize, usize)| later;
        let ids = Ids::new(names.clone()).map_err(twin).map_err(|later| {
            let id = names.get(later).cloned().unwrap_or_default();
            Error::data("memory", id, "this id occurs twice", "give each item an id of its own")
        })?;
        let provenance =
            Provenance { path: place.into(), format: SourceFormat::Memory, dtype: Some(TokenDtype::F32), about };
        Ok(Self { ids, items, times: Vec::new(), dim, provenance })
    }

    /// The same items, with `times` in seconds for each row of each.
    ///
    /// # Errors
    /// [`Error::Data`] for times that are not finite, not ascending, or not one a row.
    pub fn timed(self, times: Vec<Vec<f32>>) -> Result<Self> {
        if times.len() != self.items.len() {
            let what = format!("{} lists of times for {} items", times.len(), self.items.len());
            return Err(Error::data("memory", "all items", what, "give one list an item"));
        }
        for ((id, item), times) in self.ids.names().iter().zip(&self.items).zip(&times) {
            sound_times(times, item.rows).map_err(|complaint| complaint.at(&self.provenance.path, id))?;
        }
        Ok(Self { times, ..self })
    }
}

impl TokenSource for InMemory {
    fn ids(&self) -> &[String] {
        self.ids.names()
    }
    fn dim(&self) -> usize {
        self.dim
    }
    fn rows(&self, i: usize) -> usize {
        self.items.get(i).map_or(0, |tokens| tokens.rows)
    }
    fn load_into(&self, i: usize, out: &mut [f32]) -> Result<()> {
        match self.items.get(i) {
            Some(tokens) if tokens.data.len() == out.len() => out.copy_from_slice(&tokens.data),
            _ => return Err(wrong_room(self, i, out.len())),
        }
        Ok(())
    }
    fn timestamps(&self, i: usize) -> Option<Cow<'_, [f32]>> {
        let known = self.times.get(i).map(|times| Cow::Borrowed(times.as_slice()));
        known.or_else(|| self.provenance.about.fps.map(|fps| times_at(fps, self.rows(i))))
    }
    fn provenance(&self) -> &Provenance {
        &self.provenance
    }
    fn find(&self, id: &str) -> Option<usize> {
        self.ids.find(id)
    }
}

/// `out` does not fit item `i`, or there is no such item.
pub(crate) fn wrong_room(source: &dyn TokenSource, i: usize, room: usize) -> Error {
    let what = format!(
        "item {i} of {}: [{}, {}] do not fit into {room} values",
        source.provenance().path.display(),
        source.rows(i),
        source.dim()
    );
    Error::shape("load_into", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_survives_the_way_out_and_back() {
        let values: Vec<f32> = (0..60).map(|i| (i as f32 - 30.0) / 16.0).collect();
        for dtype in [TokenDtype::F16, TokenDtype::Bf16, TokenDtype::F32, TokenDtype::F64] {
            let mut bytes = vec![0_u8];
            encode(Path::new("x"), "a", dtype, 6, &values, &mut bytes).unwrap();
            for skip in [0, 1] {
                // Both alignments: files promise none.
                let moved: Vec<u8> = std::iter::repeat_n(0, skip).chain(bytes[1..].iter().copied()).collect();
                let mut back = vec![0.0; 60];
                decode(Path::new("x"), "a", dtype, &moved[skip..], 6, &mut back).unwrap();
                assert_eq!(back, values, "{dtype:?}");
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_named_by_row_and_column() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 40];
            values[27] = bad;
            let error = finite(Path::new("dir/v.npy"), "v", 8, &values).unwrap_err().to_string();
            assert!(error.contains("dir/v.npy: v: row 3, column 3"), "{error}");
        }
        assert!(finite(Path::new("x"), "v", 2, &[f32::MAX, f32::MIN, -0.0, 1e-45]).is_ok());
    }

    #[test]
    fn f16_refuses_what_it_cannot_hold() {
        let error = encode(Path::new("x"), "v9", TokenDtype::F16, 2, &[1.0, 7e4], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("v9: row 0, column 1"), "{error}");
    }

    #[test]
    fn ids_are_found_and_twins_are_seen() {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let ids = Ids::new(names(&["b", "a", "c"])).unwrap();
        assert_eq!((ids.find("a"), ids.find("b"), ids.find("d")), (Some(1), Some(0), None));
        assert_eq!(Ids::new(names(&["x", "y", "x"])).unwrap_err(), (0, 2));
    }

    #[test]
    fn sizes_never_overflow() {
        assert_eq!(TokenDtype::F64.bytes_of(u64::MAX, 2), None);
        assert_eq!(TokenDtype::F32.bytes_of(1 << 31, 4), None);
        assert_eq!(TokenDtype::F16.bytes_of(3, 5), Some(30));
    }
}
