//! A finished folder that is encoded again: what of it is of the files as they are now, and stays.

use crate::data::index;
use crate::data::media::Media;
use crate::data::shard::{MANIFEST, Native};
use crate::data::shard_writer::{self, ShardWriter, Written};
use crate::data::tokens::{About, TokenDtype, TokenSource};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub struct Finished {
    native: Native,
    /// Whether each of its items stays.
    stays: Vec<bool>,
    /// Whether each of the files has an item that stays.
    keeps: Vec<bool>,
    /// Items whose file is not among those that were found.
    gone: Vec<usize>,
}

impl Finished {
    /// What lies at `out`, if that is a folder of shards: made in the way of `about` and `dtype`, of files like `media`,
    /// each in the state that its stamp names. What was made of `lost` files, whose state nobody knows, stays.
    ///
    /// # Errors
    /// [`Error::Format`] when the folder is damaged, or was made in another way: all of it would be encoded again.
    pub fn open(
        out: &Path,
        index: bool,
        (about, dtype): (&About, TokenDtype),
        (media, stamps): (&[Media], &[String]),
        lost: &[Media],
    ) -> Result<Option<Finished>> {
        if !out.join(MANIFEST).exists() {
            return Ok(None);
        }
        let native = Native::open(out)?;
        let refused = |what: String, fix: &str| Err(Error::format(out, what, fix));
        let had = native.provenance();
        let told = |about: &About, dtype: Option<TokenDtype>| {
            let of = |text: Option<String>| text.unwrap_or("not known".into());
            let origin = about.origin.as_ref();
            let folder = origin.map(|o| &o.folder).or(about.pictures.as_ref());
            [
                ("encoder", of(about.encoder.clone())),
                ("folder of files", of(folder.map(|folder| folder.display().to_string()))),
                ("frames", of(origin.map(|o| o.sampling.to_string()))),
                ("decoder", of(origin.map(|o| o.decoder.clone()))),
                ("dtype", of(dtype.map(|d| d.name().to_string()))),
            ]
        };
        let mut both = told(&had.about, had.dtype).into_iter().zip(told(about, Some(dtype)));
        if let Some(((name, before), (_, now))) = both.find(|(before, now)| before != now) {
            let what = format!("is finished and has another {name}: {before}, and now {now}");
            let fix = match name {
                "decoder" if both.all(|(before, now)| before == now) => {
                    format!("name another --out, or install {before}")
                }
                _ if before == "not known" => "name another --out, or remove it".into(),
                _ => "run it as before to bring the folder up to date, or name another --out".into(),
            };
            return refused(what, &fix);
        }
        if out.join(index::FILE).exists() && !index {
            return refused("is an index".into(), "bring it up to date with `moviola index`, or name another --out");
        }
        if (0..native.len()).any(|i| native.stamp(i).is_none() || native.file(i).is_none()) {
            let what = "does not say which files it was made of, and in which state".into();
            return refused(what, "name another --out, or remove it");
        }
        let by_id: HashMap<&str, usize> = media.iter().enumerate().map(|(i, m)| (m.id.as_str(), i)).collect();
        let (mut stays, mut keeps, mut gone) = (vec![false; native.len()], vec![false; media.len()], vec![]);
        let lost: HashMap<&str, &Path> = lost.iter().map(|m| (m.id.as_str(), m.file.as_path())).collect();
        for (item, id) in native.ids().iter().enumerate() {
            match by_id.get(id.as_str()) {
                None if lost.get(id.as_str()).is_some_and(|file| native.file(item).map(Path::new) == Some(file)) => {
                    stays[item] = true;
                }
                None => gone.push(item),
                Some(i) => {
                    let file = native.file(item).map(Path::new) == Some(&media[*i].file);
                    stays[item] = file && native.stamp(item) == Some(&stamps[*i]);
                    keeps[*i] = stays[item];
                }
            }
        }
        Ok(Some(Finished { native, stays, keeps, gone }))
    }

    /// Whether what was made of file `i` stays.
    pub fn keeps(&self, i: usize) -> bool {
        self.keeps[i]
    }

    /// Whether there are items that do not stay.
    pub fn loses(&self) -> bool {
        self.stays.contains(&false)
    }

    /// Files that it was made of and that are not there any more.
    pub fn gone(&self) -> Vec<PathBuf> {
        self.gone.iter().filter_map(|i| self.native.file(*i)).map(PathBuf::from).collect()
    }

    /// Leaves it as it is, and hands back what it holds.
    pub fn unchanged(&self) -> Written {
        shard_writer::clear(&self.native);
        self.native.written()
    }

    /// A writer that keeps what stays.
    ///
    /// # Errors
    /// As [`ShardWriter::renew`].
    pub fn renew(self, about: About, shard_bytes: u64) -> Result<ShardWriter> {
        ShardWriter::renew(self.native, about, |i| self.stays[i], shard_bytes)
    }
}
