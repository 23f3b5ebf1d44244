//! The real MSR-VTT 1k-A lists, where a person has them: `tools/test --with-data DIR` names the folder, which holds the
//! CSV files itself or in `msrvtt/`. Without it these tests have nothing to look at and say so.

use moviola::data::generated::{Lengths, MsrvttOptions, make_msrvtt};
use moviola::data::sink::OutputFormat;
use moviola::data::{Dataset, Split, TokenDtype, check};
use std::path::{Path, PathBuf};

fn lists() -> Option<PathBuf> {
    let Some(data) = std::env::var_os("MOVIOLA_DATA").map(PathBuf::from) else {
        println!("MOVIOLA_DATA is not set: run tools/test --with-data DIR");
        return None;
    };
    let here = |dir: PathBuf| dir.join("MSRVTT_JSFUSION_test.csv").is_file().then_some(dir);
    let found = here(data.clone()).or_else(|| here(data.join("msrvtt")));
    assert!(found.is_some(), "{} has no MSRVTT_JSFUSION_test.csv, nor has its msrvtt/", data.display());
    found
}

/// Every format and length that the issue of real input asks for, at a width that a debug build can train.
fn make(lists: &Path, out: &Path, format: OutputFormat, dtype: TokenDtype, lengths: Lengths) {
    let options = MsrvttOptions { dim: 64, captions_per_video: 1, format, dtype, lengths, ..MsrvttOptions::default() };
    make_msrvtt(lists, out, &options).unwrap();
}

#[test]
fn the_real_lists_are_read_in_every_format() {
    let Some(lists) = lists() else { return };
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (OutputFormat::Npy, TokenDtype::F32, Lengths::Fixed),
        (OutputFormat::Npy, TokenDtype::F16, Lengths::Ragged),
        (OutputFormat::Safetensors, TokenDtype::F32, Lengths::Ragged),
        (OutputFormat::Safetensors, TokenDtype::F16, Lengths::Fixed),
        (OutputFormat::Native, TokenDtype::F16, Lengths::Ragged),
    ];
    for (i, (format, dtype, lengths)) in cases.into_iter().enumerate() {
        let out = dir.path().join(i.to_string());
        make(&lists, &out, format, dtype, lengths);
        let test = Dataset::open(&out, None, Split::Test).unwrap();
        assert_eq!((test.pairs.len(), test.gallery().len(), test.distinct_captions()), (1000, 1000, 995));
        let train = Dataset::open(&out, None, Split::Train).unwrap();
        assert_eq!((train.pairs.len(), train.gallery().len()), (9000, 9000));
        let report = check(&out);
        assert!(report.is_usable(), "{:?}", report.problems.first());
    }
}

#[cfg(feature = "wgpu")]
mod ranks {
    use super::*;
    use moviola::engine::backend::cpu::Cpu;
    use moviola::engine::backend::{self, Backend, DeviceChoice};
    use moviola::engine::op::Precision;
    use moviola::eval::scoring::{count_ranks, relevance};
    use moviola::eval::{CaptionMode, Captions, Directions, Retrieval, Setting};
    use moviola::models::Config;
    use moviola::models::scorer::Scorer;
    use moviola::train::{Run, TrainOptions, Trainer};
    use std::sync::atomic::AtomicBool;

    fn gpu() -> Box<dyn Backend> {
        backend::open(&DeviceChoice::Wgpu(None), 0, Precision::F32).expect("a Vulkan driver is needed").0
    }

    fn scores(model: &Path, data: &Dataset, backend: Box<dyn Backend>) -> Vec<f32> {
        let texts = data.pairs.iter().map(|p| p.text).collect();
        let mut scorer = Scorer::open(model, (&*data.texts, texts), (&*data.videos, data.gallery()), backend).unwrap();
        let columns = data.gallery().len();
        let mut all = vec![0.0; data.pairs.len() * columns];
        let stop = AtomicBool::new(false);
        scorer
            .score_all(
                |tile| {
                    for (r, row) in tile.scores.chunks(tile.stride).take(tile.texts.len()).enumerate() {
                        let at = (tile.texts.start + r) * columns + tile.videos.start;
                        all[at..at + tile.videos.len()].copy_from_slice(&row[..tile.videos.len()]);
                    }
                    Ok(())
                },
                &stop,
            )
            .unwrap();
        all
    }

    /// Pairs that two devices order differently although their scores differ by more than 1e-5.
    fn misplaced(cpu: &[f32], gpu: &[f32], columns: usize) -> usize {
        let texts = cpu.chunks(columns).zip(gpu.chunks(columns)).enumerate();
        texts
            .map(|(own, (c, g))| {
                let differs = |v: &usize| {
                    let (on_cpu, on_gpu) = (c[*v] - c[own], g[*v] - g[own]);
                    on_cpu.abs() > 1e-5 && (on_cpu > 0.0) != (on_gpu > 0.0)
                };
                (0..columns).filter(differs).count()
            })
            .sum()
    }

    #[test]
    fn both_devices_rank_the_real_test_set_alike() {
        let Some(lists) = lists() else { return };
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        make(&lists, &data, OutputFormat::Native, TokenDtype::F16, Lengths::Ragged);
        let train = Dataset::open(&data, None, Split::Train).unwrap();
        let test = Dataset::open(&data, None, Split::Test).unwrap();
        for model in ["mean-pool", "token-interaction"] {
            let out = dir.path().join(model);
            let config = Config { model: model.into(), text_dim: 64, video_dim: 64, dim: 64, ..Config::default() };
            let options = TrainOptions { epochs: 6, learning_rate: 3e-3, ..TrainOptions::default() };
            let run = Run {
                out: &out,
                config: &config,
                options: &options,
                train: &train,
                val: None,
                resume: false,
                foreground: None,
            };
            let mut trainer = Trainer::new(&run, Box::new(Cpu::new(2).unwrap()), |_| {}).unwrap();
            trainer.run(&AtomicBool::new(false), |_| {}).unwrap();
            let cpu = scores(&out, &test, Box::new(Cpu::new(2).unwrap()));
            let gpu = scores(&out, &test, gpu());
            assert_eq!(misplaced(&cpu, &gpu, 1000), 0, "{model}");

            let texts = test.pairs.iter().map(|p| p.text).collect();
            let backend = Box::new(Cpu::new(2).unwrap());
            let mut scorer =
                Scorer::open(&out, (&*test.texts, texts), (&*test.videos, test.gallery()), backend).unwrap();
            let relevant = relevance(&test).unwrap();
            let captions: Vec<&str> = test.pairs.iter().map(|p| test.caption(p)).collect();
            let mut setting = Setting::new(scorer.device());
            setting.captions = Some(Captions::new(&captions, &relevant).unwrap());
            let (mut tiler, text_side, video_side) = scorer.tiler();
            let stop = AtomicBool::new(false);
            let both = Directions::Both;
            let counts =
                count_ranks(&mut tiler, text_side, video_side, relevant, CaptionMode::MinRank, both, &stop).unwrap();
            let result = Retrieval::new(&counts, &setting).unwrap();
            assert_eq!(result.protocol.distinct_captions, Some(995));
            assert_eq!(result.protocol.recall_ceiling.t2v, Some(99.5));
            let recall = result.t2v.unwrap().recall_at_1;
            println!("{model}: R@1 {recall:.1} of at most 99.5");
            // Chance is 0.1; a narrow model after a few hundred steps is far from good, but it has learnt.
            assert!(recall > 2.0 && recall <= 99.5, "{model}: {recall}");
        }
    }
}
