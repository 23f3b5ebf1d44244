//! `eval retrieval`: the table of the field, for a model, for anyone's score matrix and for anyone's run.

use super::split::split;
use super::{Common, STOP, device, output};
use crate::data::{Dataset, Layout};
use crate::error::{Error, Result};
use crate::eval::scoring::{count_ranks, relevance};
use crate::eval::{
    Bank, CaptionMode, Captions, Counts, Direction, Directions, MEMORY_LIMIT, Matrix, NpyMatrix, PostProcess, Qrels,
    Relevance, Retrieval, Run, ScoreMatrix, Setting, TieRule, count, evaluate_with,
};
use crate::models::scorer::Scorer;
use crate::picture::table;
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Evaluate a model, a score matrix or a run.
#[derive(Args)]
pub struct Eval {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Retrieval(Box<RetrievalArgs>),
}

/// Retrieval in both directions: R@1, R@5, R@10, median and mean rank.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola eval retrieval --model run --data world
  moviola eval retrieval --scores sim.npy --data msrvtt      anyone's [texts, videos] matrix
  moviola eval retrieval --scores sim.npy                    text i belongs to video i
  moviola eval retrieval --run run.txt --qrels qrels.txt     TREC files
  moviola eval retrieval --model run --data world --post dsl named in the protocol")]
struct RetrievalArgs {
    /// Model folder.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["scores", "run_file"])]
    model: Option<PathBuf>,
    /// Score matrix of another program: .npy, [texts, videos], rows in the order of the split's texts.
    #[arg(long, value_name = "FILE", conflicts_with = "run_file")]
    scores: Option<PathBuf>,
    /// TREC run to evaluate.
    #[arg(long = "run", value_name = "FILE", requires = "qrels")]
    run_file: Option<PathBuf>,
    /// TREC judgements for --run.
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,
    /// Folder with captions and token files.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[arg(long, value_name = "LAYOUT", help = super::split::layout_help())]
    layout: Option<String>,
    /// train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    /// How a video with several captions is a query.
    #[arg(long, value_enum, default_value_t = CaptionArg::MinRank)]
    captions: CaptionArg,
    /// Correct scores with other queries; off by default, named in the protocol, and not comparable with plain numbers.
    #[arg(long, value_enum)]
    post: Option<PostArg>,
    /// The tie rule of the main numbers: expected, optimistic, pessimistic, clip4clip or frozen.
    #[arg(long, default_value = "expected", value_name = "RULE")]
    metric_compat: String,
    /// Training queries' scores for --post qb-norm: .npy, [training texts, videos].
    #[arg(long, value_name = "FILE")]
    bank: Option<PathBuf>,
    /// Add R@50.
    #[arg(long)]
    deep: bool,
    /// Write the best 100 videos of every text as a TREC run (with --model or --scores).
    #[arg(long, value_name = "FILE")]
    trec_run: Option<PathBuf>,
    /// Write the relevant pairs as TREC judgements.
    #[arg(long, value_name = "FILE")]
    trec_qrels: Option<PathBuf>,
}

#[derive(Copy, Clone, ValueEnum)]
enum CaptionArg {
    MinRank,
    MaxCaption,
    Single,
}

#[derive(Copy, Clone, ValueEnum)]
enum PostArg {
    Dsl,
    InvertedSoftmax,
    QbNorm,
    Sinkhorn,
}

/// Documents a query has in a TREC run.
const DEPTH: usize = 100;

impl Eval {
    pub fn run(&self, common: &Common) -> Result<()> {
        let What::Retrieval(args) = &self.what;
        let result = args.evaluate(common)?;
        output::result(common, &result, || table::terminal(&result))
    }
}

impl RetrievalArgs {
    fn mode(&self) -> CaptionMode {
        match self.captions {
            CaptionArg::MinRank => CaptionMode::MinRank,
            CaptionArg::MaxCaption => CaptionMode::MaxCaption,
            CaptionArg::Single => CaptionMode::Single,
        }
    }

    fn post(&self) -> Option<PostProcess> {
        self.post.map(|p| match p {
            PostArg::Dsl => PostProcess::DualSoftmax { temperature: 1.0 },
            PostArg::InvertedSoftmax => PostProcess::InvertedSoftmax { beta: 20.0 },
            PostArg::QbNorm => PostProcess::QueryBank { beta: 20.0, top: 1 },
            PostArg::Sinkhorn => PostProcess::Sinkhorn { iterations: 4 },
        })
    }

    fn layout(&self) -> Result<Option<Layout>> {
        self.layout.as_deref().map(super::split::layout).transpose()
    }

    fn dataset(&self) -> Result<Option<Dataset>> {
        let Some(dir) = &self.data else { return Ok(None) };
        Dataset::open(dir, self.layout()?, split(&self.split)?).map(Some)
    }

    fn setting(&self, device: String, data: Option<&Dataset>) -> Result<Setting> {
        let mut setting = Setting::new(device);
        setting.tie_rule = self.metric_compat.parse::<TieRule>()?;
        setting.deep = self.deep;
        setting.post_processing = self.post().map(|p| p.note(self.bank.is_some()));
        if let Some(data) = data {
            let captions: Vec<&str> = data.pairs.iter().map(|p| data.caption(p)).collect();
            setting.captions = Some(Captions::new(&captions, &relevance(data)?)?);
        }
        Ok(setting)
    }

    fn evaluate(&self, common: &Common) -> Result<Retrieval> {
        if let (Some(run), Some(qrels)) = (&self.run_file, &self.qrels) {
            let counts = Run::read(run)?.evaluate(&Qrels::read(qrels)?, Direction::T2v)?;
            return Retrieval::new(&counts, &self.setting(run.display().to_string(), None)?);
        }
        let data = self.dataset()?;
        if let (Some(path), Some(data)) = (&self.trec_qrels, &data) {
            write_qrels(path, data)?;
        }
        match (&self.model, &self.scores) {
            (Some(model), _) => self.of_model(common, model, data),
            (_, Some(scores)) => self.of_matrix(scores, data.as_ref()),
            _ => Err(Error::config("eval retrieval", "nothing to evaluate", "give --model, --scores or --run")),
        }
    }

    fn of_model(&self, common: &Common, model: &Path, data: Option<Dataset>) -> Result<Retrieval> {
        let data = data.ok_or_else(|| Error::config("--data", "is missing", "name the folder to evaluate on"))?;
        let backend = device::open(common)?;
        let text_items = data.pairs.iter().map(|p| p.text).collect();
        let mut scorer = Scorer::open(model, (&*data.texts, text_items), (&*data.videos, data.gallery()), backend)?;
        let (texts, videos) = (data.pairs.len(), data.gallery().len());
        let counts = if self.post.is_some() || self.trec_run.is_some() {
            let matrix = whole_matrix(&mut scorer, texts, videos)?;
            self.counts(&matrix, &data)?
        } else {
            let (mut tiler, texts, videos) = scorer.tiler();
            count_ranks(&mut tiler, texts, videos, relevance(&data)?, self.mode(), Directions::Both, &STOP)?
        };
        Retrieval::new(&counts, &self.setting(scorer.device(), Some(&data))?)
    }

    fn of_matrix(&self, path: &Path, data: Option<&Dataset>) -> Result<Retrieval> {
        let matrix = NpyMatrix::open(path)?;
        let counts = match data {
            Some(data) => self.counts(&matrix, data)?,
            None => {
                let pairs = matrix.texts();
                self.processed(&matrix, Relevance::one_to_one(pairs)?)?
            }
        };
        Retrieval::new(&counts, &self.setting(path.display().to_string(), data)?)
    }

    fn counts(&self, matrix: &dyn ScoreMatrix, data: &Dataset) -> Result<Counts> {
        if let Some(path) = &self.trec_run {
            write_run(path, matrix, data)?;
        }
        self.processed(matrix, relevance(data)?)
    }

    fn processed(&self, matrix: &dyn ScoreMatrix, relevant: Relevance) -> Result<Counts> {
        let Some(post) = self.post() else { return count(matrix, relevant, self.mode(), Directions::Both) };
        let bank = match &self.bank {
            Some(path) => {
                let bank = NpyMatrix::open(path)?;
                Bank { t2v: Some(Matrix::gather(&bank, 4, MEMORY_LIMIT, "the query bank")?), v2t: None }
            }
            None => Bank::default(),
        };
        let directions = if bank.t2v.is_some() { Directions::TextToVideo } else { Directions::Both };
        evaluate_with(&post, &bank, MEMORY_LIMIT, matrix, relevant, (self.mode(), directions))
    }
}

/// All scores in memory, for what needs them all at once.
pub fn whole_matrix(scorer: &mut Scorer, texts: usize, videos: usize) -> Result<Matrix> {
    let needed = (texts as u64).saturating_mul(videos as u64).saturating_mul(4);
    if needed > MEMORY_LIMIT {
        return Err(Error::Memory {
            what: format!("the score matrix of {texts} texts and {videos} videos"),
            needed,
            available: MEMORY_LIMIT,
            fix: "leave out --post and --trec-run: plain evaluation streams".into(),
        });
    }
    let mut scores = vec![0.0; texts * videos];
    scorer.score_all(
        |tile| {
            for (r, row) in tile.scores.chunks(tile.stride).take(tile.texts.len()).enumerate() {
                let at = (tile.texts.start + r) * videos + tile.videos.start;
                scores[at..at + tile.videos.len()].copy_from_slice(&row[..tile.videos.len()]);
            }
            Ok(())
        },
        &STOP,
    )?;
    Matrix::new(texts, videos, scores)
}

fn write_run(path: &Path, matrix: &dyn ScoreMatrix, data: &Dataset) -> Result<()> {
    let (mut run, gallery) = (Run::default(), data.gallery());
    if (matrix.texts(), matrix.videos()) != (data.pairs.len(), gallery.len()) {
        let what = format!("[{}, {}] for [{}, {}]", matrix.texts(), matrix.videos(), data.pairs.len(), gallery.len());
        return Err(Error::shape("score matrix", what));
    }
    let mut row = vec![0.0; gallery.len()];
    for (i, p) in data.pairs.iter().enumerate() {
        matrix.row(i, &mut row)?;
        let mut best: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let documents = best.into_iter().take(DEPTH);
        let named = documents.map(|(v, s)| (data.videos.ids()[gallery[v]].clone(), f64::from(s))).collect();
        run.push(data.texts.ids()[p.text].clone(), named)?;
    }
    run.write(path, "moviola")
}

fn write_qrels(path: &Path, data: &Dataset) -> Result<()> {
    let mut qrels = Qrels::default();
    for p in &data.pairs {
        qrels.push(data.texts.ids()[p.text].clone(), vec![(data.videos.ids()[p.video].clone(), 1)])?;
    }
    qrels.write(path)
}
