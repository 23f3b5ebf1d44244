//! The flags that name a data set, shared by all commands that read one.

use crate::data::{Dataset, Layout, Split};
use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone)]
pub struct DataArgs {
    /// Folder with captions and token files; see `moviola data check --help`.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    #[arg(long, value_name = "LAYOUT", help = layout_help())]
    pub layout: Option<String>,
}

impl DataArgs {
    pub fn layout(&self) -> Result<Option<Layout>> {
        self.layout.as_deref().map(layout).transpose()
    }

    pub fn open(&self, split: Split) -> Result<Dataset> {
        Dataset::open(&self.data, self.layout()?, split)
    }

    /// Captions without features.
    pub fn open_captions(&self, split: Split) -> Result<Dataset> {
        Dataset::open_captions(&self.data, self.layout()?, split)
    }

    /// Whether the folder has such a split.
    pub fn has(&self, split: Split) -> Result<bool> {
        let layout = self.layout()?.map_or_else(|| Layout::detect(&self.data), Ok)?;
        Ok(layout.splits(&self.data).contains(&split) && Dataset::has(&self.data, layout, split))
    }
}

/// The help of `--layout`, of every command that has it.
pub fn layout_help() -> String {
    format!("How the data set is laid out: {}. Found out when left out", Layout::names())
}

pub fn layout(name: &str) -> Result<Layout> {
    Layout::ALL.into_iter().find(|l| l.name() == name).ok_or_else(|| {
        Error::config("--layout", format!("there is no layout {name:?}"), format!("use one of {}", Layout::names()))
    })
}

pub fn split(name: &str) -> Result<Split> {
    match name {
        "train" => Ok(Split::Train),
        "val" => Ok(Split::Val),
        "test" => Ok(Split::Test),
        _ => Err(Error::config("--split", format!("there is no split {name:?}"), "use train, val or test")),
    }
}
