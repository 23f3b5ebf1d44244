//! NumPy's `.npz`: a zip of `.npy`; the array `features`, or the only one.

use std::io::{Cursor, Read};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::files::Mapped;
use super::npy::{self, Header};
use super::problem::Complaint;
use super::tokens::{finite, widen};
use crate::error::{Error, Result, bytes};

/// Largest array that is unpacked: a few compressed bytes can claim any size.
pub const UNPACKED_LIMIT: u64 = 1 << 30;
const FIX: &str = "write it again with numpy.savez(path, features=array)";

/// Where the array of a `.npz` lies.
#[derive(Debug, Clone, Copy)]
pub struct Packed {
    pub header: Header,
    member: usize,
    /// Bytes from the start of the file, where values are stored as they are.
    stored: Option<usize>,
}

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Finds the array in the bytes of a `.npz`.
pub fn find(all: &[u8]) -> Result<Packed, Complaint> {
    let mut archive = open(all)?;
    let member = choose(&archive)?;
    let mut file = archive.by_index(member).map_err(unreadable)?;
    if !matches!(file.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return Err(Complaint::new(format!("compressed by {}, which is not read", file.compression()), FIX));
    }
    let size = file.size();
    if size > UNPACKED_LIMIT {
        let what = format!("unpacks to {}, the limit is {}", bytes(size), bytes(UNPACKED_LIMIT));
        return Err(Complaint::new(what, "save it as .npy"));
    }
    // The limit of a header, and a little; an array may be shorter.
    let mut start = Vec::new();
    file.by_ref().take(70_000.min(size)).read_to_end(&mut start).map_err(unreadable)?;
    let header = npy::header(&start, size)?;
    let stored = match (file.compression(), file.data_start()) {
        (CompressionMethod::Stored, Some(at)) => usize::try_from(at).ok().and_then(|at| at.checked_add(header.offset)),
        _ => None,
    };
    let inside = stored.and_then(|at| all.get(at..)?.get(..header.length)).is_some();
    if stored.is_some() && !inside {
        return Err(Complaint::new("the array reaches beyond the end of the file: it is cut short", "copy it again"));
    }
    Ok(Packed { header, member, stored })
}

/// Writes the array that [`find`] found in `map` to `out`, `[rows, dim]`.
pub fn load_into(place: &Path, id: &str, map: &Mapped, packed: &Packed, out: &mut [f32]) -> Result<()> {
    let Header { dtype, dim, length, .. } = packed.header;
    if let Some(at) = packed.stored {
        let all = map.get(at..).and_then(|rest| rest.get(..length)).ok_or_else(|| changed(place))?;
        return super::tokens::decode(place, id, dtype, all, dim, out);
    }
    let mut archive = open(map).map_err(|complaint| complaint.at(place, id))?;
    let mut file = archive.by_index(packed.member).map_err(|error| unreadable(error).at(place, id))?;
    let mut buffer = [0_u8; 8192];
    let mut skip = packed.header.offset;
    while skip > 0 {
        let part = buffer.get_mut(..skip.min(8192)).ok_or_else(|| changed(place))?;
        file.read_exact(part).map_err(Error::io("unpack", place))?;
        skip -= part.len();
    }
    for values in out.chunks_mut(buffer.len() / dtype.size()) {
        let part = buffer.get_mut(..values.len() * dtype.size()).ok_or_else(|| changed(place))?;
        file.read_exact(part).map_err(Error::io("unpack", place))?;
        widen(dtype, part, values);
    }
    finite(place, id, dim, out)
}

fn open(all: &[u8]) -> Result<Archive<'_>, Complaint> {
    ZipArchive::new(Cursor::new(all)).map_err(unreadable)
}

fn choose(archive: &Archive<'_>) -> Result<usize, Complaint> {
    if let Some(member) = archive.index_for_name("features.npy") {
        return Ok(member);
    }
    match archive.len() {
        1 => Ok(0),
        0 => Err(Complaint::new("the archive is empty", FIX)),
        count => {
            let names: Vec<_> = archive.file_names().take(5).map(|name| format!("{name:?}")).collect();
            Err(Complaint::new(format!("none of the {count} arrays is `features`: {}", names.join(", ")), FIX))
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> Complaint {
    Complaint::new(format!("this is no readable .npz ({error})"), FIX)
}

fn changed(place: &Path) -> Error {
    Error::format(place, "the file changed while it was in use", "start again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokens::TokenDtype;
    use proptest::prelude::*;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    fn archive(method: CompressionMethod, members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in members {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn array(values: &[f32]) -> Vec<u8> {
        npy::file_bytes(Path::new("x"), TokenDtype::F32, 4, values).unwrap()
    }

    #[test]
    fn stored_and_deflated_arrays_are_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..4000).map(|i| (i % 97) as f32).collect();
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let other = ("other.npy", array(&[1.0; 4]));
            let path = dir.path().join("v.npz");
            std::fs::write(&path, archive(method, &[other, ("features.npy", array(&values))])).unwrap();
            let map = Mapped::open(&path).unwrap();
            let packed = find(&map).unwrap();
            assert_eq!(packed.stored.is_some(), method == CompressionMethod::Stored);
            let mut out = vec![0.0; 4000];
            load_into(&path, "v", &map, &packed, &mut out).unwrap();
            assert_eq!(out, values);
        }
    }

    #[test]
    fn the_choice_of_array_must_be_clear() {
        let one = archive(CompressionMethod::Stored, &[("arr_0.npy", array(&[1.0; 4]))]);
        assert!(find(&one).is_ok());
        let two = archive(CompressionMethod::Stored, &[("a.npy", array(&[1.0; 4])), ("b.npy", array(&[1.0; 4]))]);
        assert!(find(&two).unwrap_err().what.contains("\"a.npy\""));
        assert!(find(&archive(CompressionMethod::Stored, &[])).unwrap_err().what.contains("empty"));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let mut head = array(&[0.0; 4]);
        let at = head.windows(6).position(|w| w == b"(1, 4)").unwrap();
        head.splice(at..at + 20, *b"(400000000, 4), }   ");
        head.resize(64 << 10, 0);
        let mut bomb = archive(CompressionMethod::Deflated, &[("features.npy", head)]);
        // The uncompressed size in the central directory, 24 bytes after its signature.
        let at = bomb.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        bomb[at + 24..at + 28].copy_from_slice(&0x7000_0000_u32.to_le_bytes());
        let said = find(&bomb).unwrap_err().what;
        assert!(said.contains("unpacks to 1.8 GiB, the limit is 1.0 GiB"), "{said}");
    }

    proptest! {
        #[test]
        fn damaged_archives_never_panic(at in 0_usize..600, bits in any::<u8>(), end in 0_usize..600) {
            let mut all = archive(CompressionMethod::Deflated, &[("features.npy", array(&[1.5; 64]))]);
            let at = at % all.len();
            all[at] ^= bits;
            let _ = find(&all);
            all.truncate(end);
            let _ = find(&all);
        }
    }
}
