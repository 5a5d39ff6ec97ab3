//! One job from the argument, its result as one line of JSON on standard output: what
//! `benchmarks/child.py` is for the Python contenders, with the Rust batpak doing the work.
//!
//! The works, their units and their checks are those of `benchmarks/work.py`; the data are
//! those of `benchmarks/data.py`, made again here, which `data` lets the caller compare. A
//! fresh process per measurement; the clock runs only around the work; a result that is
//! wrong is an error, never a figure.
//!
//! Reads take the crate's shorter way, `read_raw` and then the typed decoder, not `get`,
//! which goes through a JSON value. A read checks the frame's CRC, not its hash.

mod data;
mod log;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use data::{measurement, measurements, Measurement, BATCH};
use log::{Log, Prepared, Sync};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Most random reads in one measurement.
const GETS: u64 = 20_000;

/// One measurement; the fields that this program has no use for are left unread.
#[derive(Deserialize)]
struct Job {
    contender: String,
    work: String,
    directory: PathBuf,
    events: u64,
    durable: bool,
    threads: usize,
    batch: usize,
}

#[derive(Serialize)]
struct Measured {
    value: f64,
    details: std::collections::BTreeMap<&'static str, f64>,
}

impl From<f64> for Measured {
    fn from(value: f64) -> Self {
        Measured {
            value,
            details: Default::default(),
        }
    }
}

impl Job {
    fn sync(&self) -> Outcome<Sync> {
        match (self.durable, self.contender.as_str()) {
            (false, _) => Ok(Sync::Never),
            (true, "rust") => Ok(Sync::AfterAnswer),
            (true, "rust-gate") => Ok(Sync::BeforeAnswer),
            (true, other) => Err(format!("no contender is called {other:?}").into()),
        }
    }

    fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }
}

fn main() -> Outcome<()> {
    let argument = std::env::args()
        .nth(1)
        .ok_or("the job is missing: JSON in one argument")?;
    let job: Job = serde_json::from_str(&argument)?;
    let measured = match job.work.as_str() {
        "append" => append(&job)?,
        "get" => get(&job)?,
        "scan" => scan(&job)?,
        "open_log" => open_log(&job)?,
        "disk" => disk(&job, true)?,
        "disk_with_index" => disk(&job, false)?,
        "fixture" => fixture(&job)?,
        "data" => digest(&job)?,
        other => return Err(format!("no work is called {other:?}").into()),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Events appended per second, the store open before and closed after the timed part.
fn append(job: &Job) -> Outcome<Measured> {
    let sync = job.sync()?;
    let events = measurements(job.events);
    warm_up(job, sync)?;
    let log = Log::open(&job.journal(), sync)?;
    let prepared = log::prepare(&events)?;
    let seconds = if job.threads > 1 {
        in_threads(&log, &prepared, job.threads)?
    } else {
        alone(&log, &prepared, job.batch)?
    };
    log.check_settings(job.batch > 0)?;
    let start = Instant::now();
    log.close()?;
    let closing = start.elapsed().as_secs_f64();
    check_log(job)?;
    let mut measured = Measured::from(job.events as f64 / seconds);
    measured.details.insert("close_ms", 1e3 * closing);
    Ok(measured)
}

fn alone(log: &Log, prepared: &[Prepared], batch: usize) -> Outcome<f64> {
    let start = Instant::now();
    if batch > 0 {
        log.append_batches(prepared, batch)?;
    } else {
        log.append_all(prepared.iter())?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Shares as in Python: thread `n` takes the events n, n + threads, n + 2 × threads, …
fn in_threads(log: &Log, prepared: &[Prepared], threads: usize) -> Outcome<f64> {
    let ready = Barrier::new(threads + 1);
    let (seconds, failures) = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    let share = prepared.iter().skip(number).step_by(threads);
                    log.append_all(share).map_err(|error| error.to_string())
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        let ends: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
        let seconds = start.elapsed().as_secs_f64();
        let failures: Vec<String> = ends
            .into_iter()
            .filter_map(|end| match end {
                Ok(Ok(())) => None,
                Ok(Err(text)) => Some(text),
                Err(_) => Some("a thread panicked".to_owned()),
            })
            .collect();
        (seconds, failures)
    });
    match failures.first() {
        None => Ok(seconds),
        Some(text) => Err(text.clone().into()),
    }
}

/// Microseconds per read of a random event by its id, payload decoded, file cache warm.
fn get(job: &Job) -> Outcome<Measured> {
    warm_files(&job.directory)?;
    let log = Log::open(&job.journal(), Sync::Never)?;
    let ids = log.ids();
    if ids.len() as u64 != job.events {
        return Err(format!("the log holds {} events, not {}", ids.len(), job.events).into());
    }
    let numbers = random_numbers(job.events, GETS.min(job.events));
    let keys: Vec<_> = numbers.iter().map(|&number| ids[number as usize]).collect();
    log.get_all(&keys[..keys.len() / 10])?;
    let start = Instant::now();
    let found = log.get_all(&keys)?;
    let seconds = start.elapsed().as_secs_f64();
    for (got, &number) in found.iter().zip(&numbers) {
        check_equal(got, number)?;
    }
    if found.len() != keys.len() {
        return Err(format!("{} of {} events were read", found.len(), keys.len()).into());
    }
    log.close()?;
    Ok((1e6 * seconds / keys.len() as f64).into())
}

/// Events per second of one pass over all, payloads decoded to their type.
fn scan(job: &Job) -> Outcome<Measured> {
    warm_files(&job.directory)?;
    let log = Log::open(&job.journal(), Sync::Never)?;
    let start = Instant::now();
    let (count, sample) = log.scan()?;
    let seconds = start.elapsed().as_secs_f64();
    check_scan(count, &sample, job.events, true)?;
    log.close()?;
    Ok((job.events as f64 / seconds).into())
}

/// Milliseconds of the process's first open, from what a clean close left.
fn open_log(job: &Job) -> Outcome<Measured> {
    warm_files(&job.directory)?;
    let start = Instant::now();
    let log = Log::open(&job.journal(), Sync::AfterAnswer)?;
    let seconds = start.elapsed().as_secs_f64();
    let (count, sample) = log.scan()?;
    check_scan(count, &sample, job.events, true)?;
    log.close()?;
    Ok((1e3 * seconds).into())
}

/// Bytes per event of the segments, or of everything that a clean close left.
fn disk(job: &Job, segments_only: bool) -> Outcome<Measured> {
    let mut bytes = 0;
    for (path, length) in files(&job.journal())? {
        if !segments_only || path.extension().is_some_and(|end| end == "fbat") {
            bytes += length;
        }
    }
    let least = data::PAYLOAD_SIZE as u64 * job.events;
    if bytes < least {
        return Err(format!("{bytes} bytes, but the payloads alone have {least}").into());
    }
    Ok((bytes as f64 / job.events as f64).into())
}

/// Fills a log for the works that only read, untimed.
fn fixture(job: &Job) -> Outcome<Measured> {
    let log = Log::open(&job.journal(), Sync::Never)?;
    alone(&log, &log::prepare(&measurements(job.events))?, job.batch)?;
    log.close()?;
    check_log(job)?;
    Ok(0.0.into())
}

/// The first 48 bits of the SHA-256 over all payloads as stored: the caller has its own.
fn digest(job: &Job) -> Outcome<Measured> {
    let mut hash = Sha256::new();
    for number in 0..job.events {
        hash.update(data::encode(&measurement(number)));
    }
    let bits = hash.finalize()[..6]
        .iter()
        .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    Ok((bits as f64).into())
}

fn warm_up(job: &Job, sync: Sync) -> Outcome<()> {
    let log = Log::open(&job.directory.join("warm-up"), sync)?;
    alone(&log, &log::prepare(&measurements(2 * BATCH))?, job.batch)?;
    log.close()
}

fn warm_files(directory: &Path) -> Outcome<()> {
    for (path, _) in files(directory)? {
        fs::read(path)?;
    }
    Ok(())
}

/// Every regular file below `directory` with its length.
fn files(directory: &Path) -> Outcome<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.append(&mut files(&entry.path())?);
        } else if kind.is_file() {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

fn check_log(job: &Job) -> Outcome<()> {
    let log = Log::open(&job.journal(), Sync::Never)?;
    let (count, sample) = log.scan()?;
    log.close()?;
    check_scan(count, &sample, job.events, job.threads <= 1)
}

fn check_scan(count: u64, sample: &[Measurement], events: u64, in_order: bool) -> Outcome<()> {
    if count != events {
        return Err(format!("the log holds {count} events, not {events}").into());
    }
    let numbers: Vec<u64> = sample.iter().map(|value| value.number).collect();
    let expected: Vec<u64> = (999..events).step_by(1000).collect();
    if in_order && numbers != expected {
        return Err("events are out of order".into());
    }
    sample
        .iter()
        .try_for_each(|value| check_equal(value, value.number))
}

fn check_equal(got: &Measurement, number: u64) -> Outcome<()> {
    let wanted = measurement(number);
    if *got == wanted {
        Ok(())
    } else {
        Err(format!("read {got:?}, wrote {wanted:?}").into())
    }
}

/// `count` event numbers below `events`, the same in every run: a 64-bit linear
/// congruential generator's upper half, scaled.
fn random_numbers(events: u64, count: u64) -> Vec<u64> {
    let mut state = events;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((u128::from(state >> 32) * u128::from(events)) >> 32) as u64
        })
        .collect()
}

/// How long an answer may wait for its sync before the run counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
