//! TREC run and qrels files: rankings of other programs, and ours for them.
//!
//! A run line is `query Q0 document rank score tag`, a qrels line `query iteration document relevance`. As trec_eval
//! does, the score decides and the rank column is ignored; unlike it, ties follow the tie rule in force.

use super::file;
use super::metrics::Direction;
use super::ranks::{CaptionMode, Counts, Tally};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// No honest line comes near.
const LINE_LIMIT: usize = 16 << 10;
/// Larger files would need more memory than a laptop has.
const FILE_LIMIT: u64 = 4 << 30;

/// Rankings: for each query its documents and their scores, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    queries: Vec<(String, Vec<(String, f64)>)>,
    names: HashSet<String>,
}

/// Judgements: for each query its documents and their relevance; positive means relevant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Qrels {
    queries: Vec<(String, Vec<(String, i64)>)>,
    names: HashSet<String>,
}

/// Lines of a table of documents by query, and where each query and document already stands.
struct Grouped<T> {
    queries: Vec<(String, Vec<(String, T)>)>,
    place: HashMap<String, usize>,
    seen: HashSet<(usize, String)>,
}

impl<T> Grouped<T> {
    fn new() -> Self {
        Grouped { queries: Vec::new(), place: HashMap::new(), seen: HashSet::new() }
    }

    /// `false` when the query already has the document.
    fn insert(&mut self, query: &str, document: &str, value: T) -> bool {
        let place = match self.place.get(query) {
            Some(&place) => place,
            None => {
                self.queries.push((query.to_string(), Vec::new()));
                self.place.insert(query.to_string(), self.queries.len() - 1);
                self.queries.len() - 1
            }
        };
        if !self.seen.insert((place, document.to_string())) {
            return false;
        }
        self.queries[place].1.push((document.to_string(), value));
        true
    }
}

/// Read a file of whitespace-separated fields line by line; `take` gets `FIELDS` of them, or says what is wrong.
fn lines<const FIELDS: usize>(
    path: &Path,
    shape: &str,
    mut take: impl FnMut([&str; FIELDS]) -> Result<(), String>,
) -> Result<()> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    if size > FILE_LIMIT {
        return Err(Error::Memory {
            what: format!("reading {}", path.display()),
            needed: size,
            available: FILE_LIMIT,
            fix: "keep the first thousand documents of each query, or split the file".into(),
        });
    }
    // `take` bounds what a file that is no file (a pipe, a device) may feed us.
    let mut reader = BufReader::new(file.take(FILE_LIMIT));
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = (&mut reader).take(LINE_LIMIT as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(Error::io("read", path))? == 0 {
            break;
        }
        let wrong =
            |what: &str| Error::format(path, format!("line {number}: {what}"), format!("each line reads `{shape}`"));
        if line.len() > LINE_LIMIT {
            return Err(wrong(&format!("it is longer than {LINE_LIMIT} bytes")));
        }
        let text = std::str::from_utf8(&line).map_err(|_| wrong("it is not UTF-8"))?;
        let fields: Vec<&str> = text.split_whitespace().collect();
        if fields.is_empty() {
            continue;
        }
        let found = fields.len();
        let fields = fields.try_into().map_err(|_| wrong(&format!("{found} fields instead of {FIELDS}")))?;
        take(fields).map_err(|what| wrong(&what))?;
    }
    Ok(())
}

fn proven_id(kind: &str, id: &str) -> Result<()> {
    if id.is_empty() || id.contains(char::is_whitespace) {
        let fix = "TREC files separate fields by blanks; rename it";
        return Err(Error::data("TREC file", format!("{kind} {id:?}"), "an id must be one word", fix));
    }
    Ok(())
}

impl Run {
    /// # Errors
    /// [`Error::Format`] with the line number: wrong number of fields, a score that is no finite number, a document
    /// that a query has twice; [`Error::Io`]; [`Error::Memory`] beyond 4 GiB.
    pub fn read(path: &Path) -> Result<Run> {
        let mut grouped = Grouped::new();
        lines(path, "query Q0 document rank score tag", |[query, _, document, rank, score, _]| {
            rank.parse::<i64>().map_err(|_| format!("the rank {rank:?} is not a whole number"))?;
            let score = score.parse::<f64>().ok().filter(|s| s.is_finite());
            let score = score.ok_or("the score is not a finite number")?;
            if grouped.insert(query, document, score) {
                Ok(())
            } else {
                Err(format!("query {query:?} has document {document:?} twice"))
            }
        })?;
        Ok(Run { names: grouped.place.into_keys().collect(), queries: grouped.queries })
    }

    /// Add one query's documents with their scores; they are written best first.
    ///
    /// # Errors
    /// [`Error::Data`] for an id that is not one word, a score that is not finite, or a query or document given twice.
    pub fn push(&mut self, query: impl Into<String>, mut documents: Vec<(String, f64)>) -> Result<()> {
        let query = query.into();
        proven_id("query", &query)?;
        let wrong = |id: &str, what: &str| Err(Error::data("TREC run", id, what, "give each once, with its score"));
        if self.names.contains(&query) {
            return wrong(&query, "the query is there already");
        }
        let mut seen = HashSet::new();
        for (document, score) in &documents {
            proven_id("document", document)?;
            if !score.is_finite() {
                return wrong(document, "its score is not a finite number");
            }
            if !seen.insert(document.as_str()) {
                return wrong(document, "the query has it twice");
            }
        }
        documents.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.names.insert(query.clone());
        self.queries.push((query, documents));
        Ok(())
    }

    /// `tag` names the system.
    ///
    /// # Errors
    /// [`Error::Data`] for a tag that is not one word; [`Error::Io`].
    pub fn write(&self, path: &Path, tag: &str) -> Result<()> {
        proven_id("tag", tag)?;
        let mut text = String::new();
        for (query, documents) in &self.queries {
            for (rank, (document, score)) in documents.iter().enumerate() {
                // Writing to a String cannot fail; `{}` prints a float so that it reads back to the same bits.
                let _ = writeln!(text, "{query} Q0 {document} {} {score} {tag}", rank + 1);
            }
        }
        file::replace(path, text.as_bytes())
    }

    pub fn queries(&self) -> &[(String, Vec<(String, f64)>)] {
        &self.queries
    }

    /// Where each judged query's best relevant document stands. Queries without a relevant document are left out; a
    /// query whose relevant documents the run lacks is a miss at every depth, its rank counted as just past the end.
    ///
    /// # Errors
    /// [`Error::Data`] when no query has a relevant document.
    pub fn evaluate(&self, qrels: &Qrels, direction: Direction) -> Result<Counts> {
        let rankings: HashMap<&str, &Vec<(String, f64)>> = self.queries.iter().map(|(q, d)| (q.as_str(), d)).collect();
        let mut documents: HashSet<&str> = HashSet::new();
        let mut tallies = Vec::new();
        for (query, judged) in &qrels.queries {
            documents.extend(judged.iter().map(|(d, _)| d.as_str()));
            let relevant: HashSet<&str> = judged.iter().filter(|(_, r)| *r > 0).map(|(d, _)| d.as_str()).collect();
            if !relevant.is_empty() {
                tallies.push(tally(rankings.get(query.as_str()).map_or(&[], |d| d.as_slice()), &relevant));
            }
        }
        documents.extend(self.queries.iter().flat_map(|(_, d)| d).map(|(d, _)| d.as_str()));
        if tallies.is_empty() {
            let fix = "check that the qrels mark relevant documents with 1 or more";
            return Err(Error::data("qrels", "queries", "none has a relevant document", fix));
        }
        let unranked = tallies.iter().filter(|t| t.relevant == 0).count();
        let (queries, documents) = (tallies.len(), documents.len());
        let (texts, videos, t2v, v2t) = match direction {
            Direction::T2v => (queries, documents, Some(tallies), None),
            Direction::V2t => (documents, queries, None, Some(tallies)),
        };
        Ok(Counts { texts, videos, captions: CaptionMode::MinRank, t2v, v2t, drift: 0.0, unranked })
    }
}

fn tally(ranking: &[(String, f64)], relevant: &HashSet<&str>) -> Tally {
    // Files are below 4 GiB and a line has 12 bytes or more, so a u32 holds every count.
    let count = |wanted: bool, test: &dyn Fn(f64) -> bool| {
        ranking.iter().filter(|(d, s)| relevant.contains(d.as_str()) == wanted && test(*s)).count() as u32
    };
    let best = ranking.iter().filter(|(d, _)| relevant.contains(d.as_str())).map(|(_, s)| *s).reduce(f64::max);
    match best {
        None => Tally { greater: ranking.len() as u32, equal: 0, relevant: 0 },
        Some(best) => Tally {
            greater: count(false, &|s| s > best),
            equal: count(false, &|s| s == best),
            relevant: count(true, &|s| s == best),
        },
    }
}

impl Qrels {
    /// # Errors
    /// [`Error::Format`] with the line number: wrong number of fields, a relevance that is no whole number, a document
    /// judged twice; [`Error::Io`]; [`Error::Memory`] beyond 4 GiB.
    pub fn read(path: &Path) -> Result<Qrels> {
        let mut grouped = Grouped::new();
        lines(path, "query 0 document relevance", |[query, _, document, relevance]| {
            let relevance =
                relevance.parse::<i64>().map_err(|_| format!("the relevance {relevance:?} is not a whole number"))?;
            if grouped.insert(query, document, relevance) {
                Ok(())
            } else {
                Err(format!("query {query:?} judges document {document:?} twice"))
            }
        })?;
        Ok(Qrels { names: grouped.place.into_keys().collect(), queries: grouped.queries })
    }

    /// # Errors
    /// [`Error::Data`] for an id that is not one word, or a query or document given twice.
    pub fn push(&mut self, query: impl Into<String>, judged: Vec<(String, i64)>) -> Result<()> {
        let query = query.into();
        proven_id("query", &query)?;
        let mut seen = HashSet::new();
        for (document, _) in &judged {
            proven_id("document", document)?;
            if !seen.insert(document.as_str()) {
                return Err(Error::data("qrels", document, "it is judged twice", "judge each document once"));
            }
        }
        if !self.names.insert(query.clone()) {
            return Err(Error::data("qrels", query, "the query is there already", "give each query once"));
        }
        self.queries.push((query, judged));
        Ok(())
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (query, judged) in &self.queries {
            for (document, relevance) in judged {
                let _ = writeln!(text, "{query} 0 {document} {relevance}");
            }
        }
        file::replace(path, text.as_bytes())
    }

    pub fn queries(&self) -> &[(String, Vec<(String, i64)>)] {
        &self.queries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Retrieval, Setting};
    use std::path::PathBuf;

    fn file(folder: &tempfile::TempDir, content: &[u8]) -> PathBuf {
        let path = folder.path().join("file.txt");
        std::fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn what_is_written_reads_back_to_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.txt");
        let mut run = Run::default();
        run.push("q1", vec![("v2".into(), 0.1 + 0.2), ("v1".into(), 1e300), ("v3".into(), -1e-310)]).unwrap();
        run.push("q2", vec![("v1".into(), f64::from(0.1f32))]).unwrap();
        run.write(&path, "moviola").unwrap();
        assert_eq!(Run::read(&path).unwrap(), run);
        let mut qrels = Qrels::default();
        qrels.push("q1", vec![("v1".into(), 1), ("v2".into(), 0), ("v9".into(), -1)]).unwrap();
        qrels.write(&path).unwrap();
        assert_eq!(Qrels::read(&path).unwrap(), qrels);
    }

    #[test]
    fn a_run_is_ranked_by_score_with_ties_and_misses() {
        let mut run = Run::default();
        let scored = |list: &[(&str, f64)]| list.iter().map(|(d, s)| (d.to_string(), *s)).collect::<Vec<_>>();
        run.push("hit", scored(&[("a", 3.0), ("b", 2.0)])).unwrap();
        run.push("tied", scored(&[("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 2.0)])).unwrap();
        run.push("absent", scored(&[("a", 1.0), ("b", 0.5)])).unwrap();
        let mut qrels = Qrels::default();
        qrels.push("hit", vec![("a".into(), 1)]).unwrap();
        qrels.push("tied", vec![("b".into(), 2), ("c".into(), 1), ("d".into(), 0)]).unwrap();
        qrels.push("absent", vec![("z".into(), 1)]).unwrap();
        qrels.push("unjudged", vec![("z".into(), 0)]).unwrap();
        let counts = run.evaluate(&qrels, Direction::T2v).unwrap();
        assert_eq!(
            counts.t2v.as_deref().unwrap(),
            [
                Tally { greater: 0, equal: 0, relevant: 1 },
                Tally { greater: 1, equal: 1, relevant: 2 },
                Tally { greater: 2, equal: 0, relevant: 0 }
            ]
        );
        assert_eq!((counts.unranked, counts.videos), (1, 5));
        let result = Retrieval::new(&counts, &Setting::new("run.txt")).unwrap();
        let table = result.t2v.unwrap();
        assert!((table.recall_at_5 - 200.0 / 3.0).abs() < 1e-9, "{table:?}");
        assert!(result.protocol.to_string().contains("lower bounds"));
        assert!(run.evaluate(&Qrels::default(), Direction::T2v).is_err());
    }

    #[test]
    fn hostile_lines_are_refused_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let good = "q Q0 a 1 0.5 t\n";
        let long = "x".repeat(LINE_LIMIT + 1);
        for (bad, part) in [
            ("q Q0 b 1 0.5", "5 fields"),
            ("q Q0 b 1 0.5 t t", "7 fields"),
            ("q Q0 b one 0.5 t", "rank"),
            ("q Q0 b 1 NaN t", "finite"),
            ("q Q0 b 1 inf t", "finite"),
            ("q Q0 b 1 1e999 t", "finite"),
            ("q Q0 a 2 0.4 t", "twice"),
            (long.as_str(), "longer"),
        ] {
            let path = file(&folder, format!("{good}\n{bad}\n").as_bytes());
            let error = Run::read(&path).unwrap_err().to_string();
            assert!(error.contains("line 3") && error.contains(part), "{bad:?}: {error}");
        }
        let error = Run::read(&file(&folder, b"q Q0 \xff 1 0.5 t\n")).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("UTF-8"), "{error}");
        let error = Qrels::read(&file(&folder, b"q 0 a 1\nq 0 b 1.5\n")).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(Run::read(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn ids_that_would_break_the_format_are_not_written() {
        let mut run = Run::default();
        assert!(run.push("two words", vec![]).is_err());
        assert!(run.push("q", vec![("".into(), 1.0)]).is_err());
        assert!(run.push("q", vec![("a".into(), f64::NAN)]).is_err());
        assert!(run.push("q", vec![("a".into(), 1.0), ("a".into(), 2.0)]).is_err());
        run.push("q", vec![("a".into(), 1.0)]).unwrap();
        assert!(run.push("q", vec![]).is_err());
        let mut qrels = Qrels::default();
        assert!(qrels.push("q", vec![("a".into(), 1), ("a".into(), 0)]).is_err());
        qrels.push("q", vec![]).unwrap();
        assert!(qrels.push("q", vec![]).is_err());
    }
}
