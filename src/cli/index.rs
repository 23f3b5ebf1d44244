//! `index`: from a folder of videos to something that a sentence can be looked for in.

use super::Common;
use super::encode::clips::{FromVideos, Made};
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::text::TextEncoder;
use crate::error::Result;
use clap::Args;

/// Make a folder of videos searchable by sentences.
#[derive(Args)]
#[command(after_help = "\
The encoder puts texts and pictures into one space, as CLIP does. The index is a folder of native shards, as `moviola \
encode videos` writes them, that knows its encoder; Ctrl-C, broken videos and a finished index are treated as there.

Examples:
  moviola index clips --encoder clip-vit-base-patch32 --out library
  moviola index clips --encoder clip-vit-base-patch32 --positions 248 --out long     long sentences
  moviola search 'a dog jumps into a lake' --index library --out hits.html")]
pub struct IndexCommand {
    #[command(flatten)]
    from: FromVideos,
    /// Stretch the positions of CLIP's texts from 77 to N, up to 512, for sentences that are longer: 248 is Long-CLIP's.
    /// Whoever asks this index does the same.
    #[arg(long, value_name = "N")]
    positions: Option<usize>,
}

impl IndexCommand {
    pub fn run(&self, common: &Common) -> Result<()> {
        // An encoder without a text tower would be found out by the first search, after all the work.
        TextEncoder::check(&Checkpoint::open(&self.from.encoder)?.stretched(self.positions)?)?;
        let report = self.from.encode(common, Made::Index { positions: self.positions })?;
        report.tell(common, &format!("\nask it: moviola search 'a sentence' --index {}", self.from.out.display()))
    }
}
