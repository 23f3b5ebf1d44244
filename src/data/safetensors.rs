//! Safetensors files whose tensors are items: name = id, `[D]` or `[T, D]`, f16, bf16 or f32.
//!
//! The header is parsed here and not by the `safetensors` crate, because a complaint has to name the tensor, and because
//! names that occur twice vanish in a map. The crate is the oracle of the tests.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::problem::Complaint;
use super::tokens::{About, Kind, TokenDtype};
use crate::error::{Result, bytes};

/// Longest header, as in the reference implementation.
const HEADER_LIMIT: u64 = 100_000_000;

/// One tensor, proven to lie within its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub dtype: TokenDtype,
    pub rows: usize,
    pub dim: usize,
    /// Bytes from the start of the file.
    pub offset: usize,
    pub length: usize,
}

/// A complaint and the tensor that it is about; the name is empty if it is about the file.
pub type Named = (String, Complaint);

/// What a file holds: the sound tensors by offset, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Content {
    pub entries: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
    pub complaints: Vec<Named>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawEntry)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensor names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: BTreeMap::new(), tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    let within = |error: A::Error| A::Error::custom(format!("{name}: {error}"));
                    if name == "__metadata__" {
                        header.metadata = map.next_value().map_err(within)?;
                    } else {
                        let entry = map.next_value().map_err(within)?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// Reads and proves the header of a whole file.
pub fn read(all: &[u8]) -> Content {
    let mut content = Content::default();
    match raw_header(all) {
        Err(complaint) => content.complaints.push((String::new(), complaint)),
        Ok((header, start)) => {
            content.metadata = header.metadata;
            prove(header.tensors, start, all.len(), &mut content);
        }
    }
    content
}

/// The header and where the data begin.
fn raw_header(all: &[u8]) -> Result<(RawHeader, usize), Complaint> {
    const AGAIN: &str = "copy it again, or write it again with safetensors.numpy.save_file";
    let Some((length, rest)) = all.split_first_chunk::<8>() else {
        return Err(Complaint::new(format!("{} bytes are too few for a safetensors file", all.len()), AGAIN));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT {
        let what = format!("the header claims {}, the limit is {}", bytes(length), bytes(HEADER_LIMIT));
        return Err(Complaint::new(what, AGAIN));
    }
    let text = rest.get(..length as usize).ok_or_else(|| {
        Complaint::new(format!("the header claims {length} bytes, the file has {} more", rest.len()), AGAIN)
    })?;
    let header = serde_json::from_slice(text)
        .map_err(|error| Complaint::new(format!("the header cannot be read: {error}"), AGAIN))?;
    Ok((header, 8 + text.len()))
}

/// Sizes, then the layout: by offset, without overlap or hole, up to the end of the file.
fn prove(tensors: Vec<(String, RawEntry)>, start: usize, total: usize, content: &mut Content) {
    let mut spans = Vec::new();
    let room = total.saturating_sub(start) as u64;
    for (name, raw) in tensors {
        let (begin, end) = raw.data_offsets;
        if begin > end || end > room {
            let what = format!("bytes {begin} to {end} lie outside the {room} bytes of data: the file is cut short");
            content.complaints.push((name, Complaint::new(what, "copy or write it again")));
            continue;
        }
        spans.push((begin, end, name.clone()));
        match item(&raw) {
            Err(complaint) => content.complaints.push((name, complaint)),
            Ok((dtype, rows, dim)) => content.entries.push(Entry {
                name,
                dtype,
                rows,
                dim,
                offset: start + begin as usize,
                length: (end - begin) as usize,
            }),
        }
    }
    content.entries.sort_by_key(|entry| entry.offset);
    spans.sort();
    layout(&spans, room, content);
}

fn layout(spans: &[(u64, u64, String)], room: u64, content: &mut Content) {
    let again = "write it again with safetensors.numpy.save_file";
    let mut reached = 0;
    let mut before = "";
    for (begin, end, name) in spans {
        if *begin < reached {
            let what = format!("bytes {begin} to {end} overlap those of {before}, which end at {reached}");
            content.complaints.push((name.clone(), Complaint::new(what, again)));
        } else if *begin > reached {
            let what = format!("a hole of {} bytes lies before it", begin - reached);
            content.complaints.push((name.clone(), Complaint::new(what, again)));
        }
        reached = reached.max(*end);
        before = name;
    }
    if reached < room && content.complaints.is_empty() {
        let what = format!("{} bytes follow the last tensor", room - reached);
        content.complaints.push((String::new(), Complaint::new(what, again)));
    }
    let mut names: Vec<&String> = spans.iter().map(|(_, _, name)| name).collect();
    names.sort();
    for pair in names.windows(2) {
        if let [a, b] = pair
            && a == b
        {
            let twice = Complaint::new("this name occurs twice", "give each item a name of its own");
            content.complaints.push((a.to_string(), twice));
        }
    }
}

/// Dtype, rows and dim of a tensor whose bytes have the right number.
fn item(raw: &RawEntry) -> Result<(TokenDtype, usize, usize), Complaint> {
    let dtype = match raw.dtype.as_str() {
        "F16" => TokenDtype::F16,
        "BF16" => TokenDtype::Bf16,
        "F32" => TokenDtype::F32,
        other => {
            let what = format!("values of type {other} are not read, only F16, BF16 and F32");
            return Err(Complaint::new(what, "convert it: array.astype('float32')"));
        }
    };
    let (rows, dim) = match *raw.shape.as_slice() {
        [dim] => (1, dim),
        [rows, dim] => (rows, dim),
        ref shape => {
            let what = format!("the shape {shape:?} is not [rows, dim]");
            return Err(Complaint::new(what, "store one [T, D] tensor an id: `tools/convert.py` splits [V, T, D]"));
        }
    };
    if rows == 0 {
        let fix = "encode it again, or remove it together with its captions";
        return Err(Complaint::new(format!("zero length: the shape is [0, {dim}]"), fix));
    }
    if dim == 0 {
        return Err(Complaint::new(format!("the shape [{rows}, 0] has rows without values"), "encode it again"));
    }
    let length = raw.data_offsets.1 - raw.data_offsets.0;
    if dtype.bytes_of(rows, dim) != Some(length) {
        let what = format!("[{rows}, {dim}] of {} do not take the {length} bytes it has", dtype.name());
        return Err(Complaint::new(what, "write it again"));
    }
    let small = |n: u64| usize::try_from(n).map_err(|_| Complaint::new("too large for this machine", "split the item"));
    Ok((dtype, small(rows)?, small(dim)?))
}

/// What the metadata of a file, which are strings, say about its features.
pub fn about(metadata: &BTreeMap<String, String>) -> Result<About, Complaint> {
    let text = |key: &str| metadata.get(key).cloned();
    let flag = |key: &str| match metadata.get(key).map(String::as_str) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(Complaint::new(format!("metadata {key} is {other:?}"), "write \"true\" or \"false\"")),
    };
    let kind = match metadata.get("kind").map(String::as_str) {
        Some("video") => Some(Kind::Video),
        Some("text") => Some(Kind::Text),
        _ => None,
    };
    let fps = metadata.get("fps").and_then(|fps| fps.parse().ok());
    let (normalised, sentence) = (flag("normalised")?, flag("sentence")?);
    let (encoder, layer) = (text("encoder"), text("layer"));
    Ok(About { kind, encoder, layer, normalised, fps, sentence, ..About::default() })
}

/// The reverse of [`about`].
pub fn metadata(about: &About) -> BTreeMap<String, String> {
    let kind = about.kind.map(|kind| if kind == Kind::Video { "video" } else { "text" }.to_string());
    let flag = |value: Option<bool>| value.map(|value| value.to_string());
    [
        ("kind", kind),
        ("encoder", about.encoder.clone()),
        ("layer", about.layer.clone()),
        ("normalised", flag(about.normalised)),
        ("fps", about.fps.map(|fps| fps.to_string())),
        ("sentence", flag(about.sentence)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_string(), value?)))
    .collect()
}

/// Writes a file of `[rows, dim]` tensors whose data, in the order of `items`, come later; counts and hashes all.
pub(crate) struct Writer<W> {
    to: W,
    hash: Sha256,
    written: u64,
}

#[derive(Serialize)]
struct WrittenEntry {
    dtype: &'static str,
    shape: [usize; 2],
    data_offsets: [u64; 2],
}

impl<W: Write> Writer<W> {
    /// Writes the header, padded to a multiple of 64 bytes. Sizes must have been proven by [`TokenDtype::bytes_of`].
    pub fn new(
        to: W,
        metadata: &BTreeMap<String, String>,
        dtype: TokenDtype,
        dim: usize,
        items: &[(String, usize)],
    ) -> std::io::Result<Self> {
        let mut header = serde_json::Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), serde_json::to_value(metadata)?);
        }
        let name = match dtype {
            TokenDtype::F16 => "F16",
            TokenDtype::Bf16 => "BF16",
            TokenDtype::F32 => "F32",
            TokenDtype::F64 => "F64",
        };
        let mut at = 0_u64;
        for (id, rows) in items {
            let end = at + (rows * dim * dtype.size()) as u64;
            let entry = WrittenEntry { dtype: name, shape: [*rows, dim], data_offsets: [at, end] };
            header.insert(id.clone(), serde_json::to_value(entry)?);
            at = end;
        }
        let mut text = serde_json::to_vec(&header)?;
        text.resize((text.len() + 8).next_multiple_of(64) - 8, b' ');
        let mut writer = Self { to, hash: Sha256::new(), written: 0 };
        writer.write(&(text.len() as u64).to_le_bytes())?;
        writer.write(&text)?;
        Ok(writer)
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The stream, the number of bytes and their SHA-256 in hexadecimal.
    pub fn finish(self) -> (W, u64, String) {
        (self.to, self.written, hex(&self.hash.finalize()))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut all = (header.len() as u64).to_le_bytes().to_vec();
        all.extend(header.as_bytes());
        all.resize(all.len() + data, 0);
        all
    }

    fn said(header: &str, data: usize) -> String {
        read(&file(header, data))
            .complaints
            .iter()
            .map(|(name, c)| format!("{name}: {}; {}\n", c.what, c.fix))
            .collect()
    }

    #[test]
    fn each_bad_file_says_which_tensor_and_why() {
        let tensor = |name: &str, dtype: &str, shape: &str, a: u64, b: u64| {
            format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{a},{b}]}}")
        };
        let one = |dtype: &str, shape: &str, a, b| format!("{{{}}}", tensor("v7", dtype, shape, a, b));
        let two = |a: (u64, u64), b: (u64, u64), second: &str| {
            format!("{{{},{}}}", tensor("v7", "F32", "[1,2]", a.0, a.1), tensor(second, "F32", "[1,2]", b.0, b.1))
        };
        for (header, data, expected) in [
            (one("I64", "[1,1]", 0, 8), 8, "v7: values of type I64"),
            (one("F64", "[1,1]", 0, 8), 8, "v7: values of type F64"),
            (one("F32", "[2,2,2]", 0, 32), 32, "v7: the shape [2, 2, 2]"),
            (one("F32", "[0,2]", 0, 0), 0, "v7: zero length"),
            (one("F32", "[2,0]", 0, 0), 0, "v7: the shape [2, 0]"),
            (one("F32", "[2,2]", 0, 12), 12, "v7: [2, 2] of f32 do not take the 12 bytes"),
            (one("F32", "[18446744073709551615,2]", 0, 8), 8, "v7: [18446744073709551615, 2]"),
            (one("F32", "[1,2]", 0, 8), 7, "v7: bytes 0 to 8 lie outside the 7 bytes"),
            (one("F32", "[1,2]", 8, 0), 8, "v7: bytes 8 to 0"),
            (one("F32", "[1,2]", 4, 12), 12, "v7: a hole of 4 bytes"),
            (one("F32", "[1,2]", 0, 8), 10, "2 bytes follow the last tensor"),
            (two((0, 8), (4, 12), "v8"), 12, "v8: bytes 4 to 12 overlap those of v7"),
            (two((0, 8), (8, 16), "v7"), 16, "v7: this name occurs twice"),
            (one("F32", "[-1,2]", 0, 8), 8, "v7: "),
            ("[]".into(), 0, "cannot be read"),
            ("{\"v7\":3}".into(), 0, "v7: "),
        ] {
            let said = said(&header, data);
            assert!(said.contains(expected), "{header}: {said}");
        }
    }

    #[test]
    fn hostile_lengths_are_refused() {
        assert!(read(&[1, 2, 3]).complaints[0].1.what.contains("too few"));
        assert!(read(&u64::MAX.to_le_bytes()).complaints[0].1.what.contains("limit"));
        assert!(read(&90_000_000_u64.to_le_bytes()).complaints[0].1.what.contains("0 more"));
    }

    #[test]
    fn the_crate_reads_what_we_write_and_we_read_what_it_writes() {
        let about = About { encoder: Some("clip".into()), fps: Some(1.5), sentence: Some(true), ..About::default() };
        let items = [("b".to_string(), 2), ("a\"\u{e9}".to_string(), 1)];
        let mut writer = Writer::new(Vec::new(), &metadata(&about), TokenDtype::F16, 3, &items).unwrap();
        writer.write(&[7; 18]).unwrap();
        let (all, count, hash) = writer.finish();
        assert_eq!((count as usize, hash), (all.len(), hex(&Sha256::digest(&all))));
        let theirs = ::safetensors::SafeTensors::deserialize(&all).unwrap();
        assert_eq!(theirs.tensor("b").unwrap().shape(), [2, 3]);
        let ours = read(&all);
        assert!(ours.complaints.is_empty(), "{:?}", ours.complaints);
        assert_eq!(super::about(&ours.metadata).unwrap(), about);
        assert_eq!(ours.entries[1].name, "a\"\u{e9}");

        let data = [0_u8; 24];
        let view =
            |rows| ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, vec![rows, 2], &data[..rows * 8]);
        let written = ::safetensors::serialize([("x", view(3).unwrap()), ("y", view(1).unwrap())], None).unwrap();
        let ours = read(&written);
        assert!(ours.complaints.is_empty() && ours.entries.len() == 2, "{:?}", ours.complaints);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(all in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&all);
            let _ = read(&file(&String::from_utf8_lossy(&all), 32));
        }

        #[test]
        fn what_is_accepted_lies_within_the_file(
            shape in proptest::collection::vec(0_u64..5, 0..4), begin in 0_u64..40, end in 0_u64..80, data in 0_usize..80
        ) {
            let header = format!("{{\"v\":{{\"dtype\":\"F16\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}}}");
            let all = file(&header, data);
            let content = read(&all);
            for entry in &content.entries {
                prop_assert!(entry.offset + entry.length <= all.len());
                prop_assert_eq!(entry.rows * entry.dim * 2, entry.length);
            }
            // Whatever we take whole, the reference implementation takes too.
            if content.complaints.is_empty() {
                prop_assert!(::safetensors::SafeTensors::deserialize(&all).is_ok());
            }
        }
    }
}
