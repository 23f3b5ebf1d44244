//! NumPy's `.npy`: versions 1 to 3, little-endian f2/f4/f8, C order, `[D]` (one row) or `[T, D]`.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::files::Beside;
use super::problem::Complaint;
use super::tokens::{TokenDtype, encode};
use crate::error::{Error, Result, bytes};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read. NumPy writes 118 bytes for a plain array.
const HEADER_LIMIT: usize = 64 << 10;

/// What the header of a `.npy` says, proven against the length of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub dtype: TokenDtype,
    pub rows: usize,
    pub dim: usize,
    /// Where the values begin, bytes from the start.
    pub offset: usize,
    /// Bytes of the values.
    pub length: usize,
}

/// Reads the header at the start of `start`, the beginning of a file of `total` bytes.
///
/// # Errors
/// A [`Complaint`] for anything but an array of this module's kinds that fills the file exactly.
pub fn header(start: &[u8], total: u64) -> Result<Header, Complaint> {
    let remake = "write it again with numpy.save(path, array.astype('<f4'))";
    let cut = || Complaint::new("the file ends inside its header", "copy it again");
    let Some(rest) = start.strip_prefix(MAGIC) else {
        return Err(Complaint::new("this is not a .npy file: it does not begin with \\x93NUMPY", remake));
    };
    let (length, offset) = match rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
        [1..=3, ..] | [] => return Err(cut()),
        [version, ..] => return Err(Complaint::new(format!("version {version} of .npy is unknown"), remake)),
    };
    if length > HEADER_LIMIT {
        let what = format!("the header claims {}, the limit is {}", bytes(length as u64), bytes(HEADER_LIMIT as u64));
        return Err(Complaint::new(what, remake));
    }
    let offset = offset + length;
    let text = start.get(offset - length..offset).ok_or_else(cut)?;
    let (dtype, shape) = dictionary(text).ok_or_else(|| {
        let shown = String::from_utf8_lossy(text.get(..80).unwrap_or(text)).trim().to_string();
        Complaint::new(format!("the header cannot be read: {shown}"), remake)
    })??;
    let (rows, dim) = rows_and_dim(&shape)?;
    let length = dtype.bytes_of(rows, dim).ok_or_else(|| {
        Complaint::new(format!("the shape [{rows}, {dim}] is larger than any item may be"), "split the item")
    })?;
    let found = total.saturating_sub(offset as u64);
    if found != length {
        let (rather, fix) = match found < length {
            true => ("it is cut short", "copy or encode it again"),
            false => ("something follows the array", "save one array a file"),
        };
        let what = format!("[{rows}, {dim}] of {} are {length} bytes, the file holds {found}: {rather}", dtype.name());
        return Err(Complaint::new(what, fix));
    }
    let small = |n: u64| usize::try_from(n).map_err(|_| Complaint::new("too large for this machine", "split the item"));
    Ok(Header { dtype, rows: small(rows)?, dim: small(dim)?, offset, length: small(length)? })
}

fn rows_and_dim(shape: &[u64]) -> Result<(u64, u64), Complaint> {
    let (rows, dim) = match *shape {
        [dim] => (1, dim),
        [rows, dim] => (rows, dim),
        [] => return Err(Complaint::new("a single number is no array of tokens", "save an array [rows, dim]")),
        [videos, rows, dim] => {
            let what = format!("the shape [{videos}, {rows}, {dim}] holds many videos in one file");
            let fix = "split it into one [T, D] a video: `tools/convert.py`, or numpy.save(f'{id}.npy', a[i])";
            return Err(Complaint::new(what, fix));
        }
        _ => {
            let what = format!("an array of {} dimensions is not [rows, dim]", shape.len());
            return Err(Complaint::new(what, "pool or reshape it to [rows, dim]"));
        }
    };
    if rows == 0 {
        return Err(Complaint::new(
            format!("zero length: the shape is [0, {dim}]"),
            "encode it again, or remove it together with its captions",
        ));
    }
    if dim == 0 {
        return Err(Complaint::new(format!("the shape [{rows}, 0] has rows without values"), "encode it again"));
    }
    Ok((rows, dim))
}

/// The dictionary of the header: dtype and shape. `None` if it is none, a complaint if it is one that we do not read.
fn dictionary(text: &[u8]) -> Option<Result<(TokenDtype, Vec<u64>), Complaint>> {
    let mut cursor = Cursor { rest: text };
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    cursor.take(b'{')?;
    while !cursor.skip(b'}') {
        let key = cursor.string()?;
        cursor.take(b':')?;
        match key {
            "descr" if cursor.peek() == Some(b'[') => {
                let what = "the array has named fields, tokens are plain numbers";
                return Some(Err(Complaint::new(what, "save the field: numpy.save(path, array['features'])")));
            }
            "descr" => descr = Some(cursor.string()?),
            "fortran_order" => fortran = Some(cursor.boolean()?),
            "shape" => shape = Some(cursor.tuple()?),
            _ => return None,
        }
        if !cursor.skip(b',') {
            cursor.take(b'}')?;
            break;
        }
    }
    if !cursor.rest.trim_ascii().is_empty() {
        return None;
    }
    let (descr, fortran, shape) = (descr?, fortran?, shape?);
    let dtype = match descr {
        "<f2" => TokenDtype::F16,
        "<f4" => TokenDtype::F32,
        "<f8" => TokenDtype::F64,
        other => {
            let what = format!("values of type {other:?} are not read, only '<f2', '<f4' and '<f8'");
            return Some(Err(Complaint::new(what, "convert it: array.astype('<f4')")));
        }
    };
    // A single row or column is the same in both orders.
    if fortran && shape.iter().filter(|&&n| n > 1).count() > 1 {
        let fix = "convert it: numpy.save(path, numpy.ascontiguousarray(array))";
        return Some(Err(Complaint::new("the array is in Fortran order (columns first)", fix)));
    }
    Some(Ok((dtype, shape)))
}

/// Reads the few Python literals of a header; whitespace before each is skipped.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = self.rest.get(1..).unwrap_or(&[]);
        }
        found
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip(byte).then_some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = self.peek().filter(|q| matches!(q, b'\'' | b'"'))?;
        self.take(quote)?;
        let end = self.rest.iter().position(|&b| b == quote)?;
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..)?;
        std::str::from_utf8(text).ok().filter(|text| !text.contains('\\'))
    }

    fn boolean(&mut self) -> Option<bool> {
        self.peek()?;
        for (word, value) in [(b"True".as_slice(), true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(value);
            }
        }
        None
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        self.take(b'(')?;
        while !self.skip(b')') {
            self.peek()?;
            let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (number, rest) = self.rest.split_at_checked(digits)?;
            numbers.push(std::str::from_utf8(number).ok()?.parse().ok()?);
            // NumPy for Python 2 wrote 3L.
            self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
            if !self.skip(b',') {
                self.take(b')')?;
                break;
            }
        }
        Some(numbers)
    }
}

/// A version 1 header for `[rows, dim]`, padded so that values begin at a multiple of 64 bytes.
pub(crate) fn header_bytes(dtype: TokenDtype, rows: usize, dim: usize) -> Result<Vec<u8>> {
    let descr = match dtype {
        TokenDtype::F16 => "<f2",
        TokenDtype::F32 => "<f4",
        TokenDtype::F64 => "<f8",
        TokenDtype::Bf16 => return Err(Error::config("dtype", ".npy has no bf16", "choose f16 or f32")),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let plain = MAGIC.len() + 4 + text.len() + 1;
    text.push_str(&" ".repeat(plain.next_multiple_of(64) - plain));
    text.push('\n');
    let mut all = [MAGIC, &[1, 0]].concat();
    // A header of one array is at most 200 bytes.
    all.extend((text.len() as u16).to_le_bytes());
    all.extend(text.as_bytes());
    Ok(all)
}

/// Writes `[rows, dim]` values to `path`, which appears whole or not at all.
///
/// # Errors
/// [`Error::Data`] for values that are not finite or do not fit the dtype, [`Error::Io`] from the system.
pub fn write(path: &Path, dtype: TokenDtype, dim: usize, values: &[f32]) -> Result<()> {
    let beside = Beside::new(path)?;
    let all = file_bytes(path, dtype, dim, values)?;
    let mut file = File::create(beside.partial()).map_err(Error::io("create", path))?;
    file.write_all(&all).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("write", path))?;
    drop(file);
    beside.keep()
}

/// The bytes of a `.npy` file with `[rows, dim]` values.
pub(crate) fn file_bytes(path: &Path, dtype: TokenDtype, dim: usize, values: &[f32]) -> Result<Vec<u8>> {
    if dim == 0 || values.is_empty() || !values.len().is_multiple_of(dim) {
        let what = format!("{} values are no rows of {dim}", values.len());
        return Err(Error::format(path, what, "give at least one whole row"));
    }
    let mut all = header_bytes(dtype, values.len() / dim, dim)?;
    encode(path, "", dtype, dim, values, &mut all)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(dictionary: &str, values: usize) -> Vec<u8> {
        let mut all = [MAGIC, &[1, 0]].concat();
        all.extend((dictionary.len() as u16).to_le_bytes());
        all.extend(dictionary.as_bytes());
        all.resize(all.len() + values, 0);
        all
    }

    fn complaint(dictionary: &str, values: usize) -> String {
        let all = made(dictionary, values);
        let Complaint { what, fix } = header(&all, all.len() as u64).unwrap_err();
        format!("{what}; {fix}")
    }

    #[test]
    fn headers_as_numpy_and_others_write_them_are_read() {
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }        \n",
            "{\"shape\":(3,4),\"fortran_order\":False,\"descr\":\"<f4\"}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4L)}",
        ] {
            let all = made(text, 48);
            let head = header(&all, all.len() as u64).unwrap();
            assert_eq!((head.rows, head.dim, head.dtype, head.length), (3, 4, TokenDtype::F32, 48));
        }
        let all = made("{'descr': '<f2', 'fortran_order': True, 'shape': (7,), }", 14);
        let head = header(&all, all.len() as u64).unwrap();
        assert_eq!((head.rows, head.dim), (1, 7));
        let mut third = [MAGIC, &[3, 0]].concat();
        let text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2)}";
        third.extend((text.len() as u32).to_le_bytes());
        third.extend(text.as_bytes());
        assert_eq!(header(&third, third.len() as u64 + 16).unwrap().dtype, TokenDtype::F64);
    }

    #[test]
    fn each_bad_header_says_what_is_wrong() {
        let with = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")
        };
        for (text, values, expected) in [
            (with("'<f4'", "False", "(2, 3, 4)"), 96, "many videos in one file"),
            (with("'<f4'", "False", "(0, 4)"), 0, "zero length"),
            (with("'<f4'", "False", "(4, 0)"), 0, "without values"),
            (with("'<f4'", "False", "()"), 4, "single number"),
            (with("'>f4'", "False", "(1, 1)"), 4, "astype('<f4')"),
            (with("'|O'", "False", "(1, 1)"), 8, "'<f2', '<f4' and '<f8'"),
            (with("[('a', '<f4')]", "False", "(1, 1)"), 8, "named fields"),
            (with("'<f4'", "True", "(2, 3)"), 24, "Fortran"),
            (with("'<f4'", "False", "(2, 3)"), 23, "cut short"),
            (with("'<f4'", "False", "(2, 3)"), 25, "something follows"),
            (with("'<f4'", "False", "(18446744073709551615, 2)"), 8, "larger than any item"),
            (with("'<f4'", "False", "(-1, 2)"), 8, "cannot be read"),
            (with("'<f4'", "False", "(99999999999999999999999, 2)"), 8, "cannot be read"),
            ("{'descr': '<f4'".into(), 8, "cannot be read"),
            ("{}".into(), 8, "cannot be read"),
        ] {
            let said = complaint(&text, values);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn a_long_or_cut_header_is_refused() {
        let mut huge = [MAGIC, &[2, 0]].concat();
        huge.extend(u32::MAX.to_le_bytes());
        assert!(header(&huge, 1 << 40).unwrap_err().what.contains("limit"));
        let whole = made("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}", 0);
        for end in 0..whole.len() {
            assert!(header(&whole[..end], end as u64).is_err());
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        for dtype in [TokenDtype::F16, TokenDtype::F32, TokenDtype::F64] {
            write(&path, dtype, 4, &values).unwrap();
            let all = std::fs::read(&path).unwrap();
            let head = header(&all, all.len() as u64).unwrap();
            assert_eq!((head.rows, head.dim, head.dtype, head.offset % 64), (3, 4, dtype, 0));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(all in proptest::collection::vec(any::<u8>(), 0..300), total in any::<u64>()) {
            let _ = header(&all, total);
            let _ = header(&[MAGIC, &all].concat(), total);
            let _ = header(&[MAGIC, &[1, 0, 60, 0], &all].concat(), total);
        }

        #[test]
        fn nearly_right_dictionaries_never_panic(text in "\\{?'(descr|shape)': ?('<f[248]'|\\([0-9, L]{0,30}\\)?),? ?['a-zA-Z:(), 0-9]{0,60}\\}?") {
            let all = made(&text, 64);
            let _ = header(&all, all.len() as u64);
        }

        #[test]
        fn a_header_that_is_read_never_claims_more_than_there_is(rows in 0_u64..9, dim in 0_u64..9, size in 0_usize..400) {
            let all = made(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim})}}"), size);
            if let Ok(head) = header(&all, all.len() as u64) {
                prop_assert_eq!(head.offset + head.length, all.len());
            }
        }
    }
}
