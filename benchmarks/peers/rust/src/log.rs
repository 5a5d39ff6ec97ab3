//! The Rust batpak through its public calls, with its default options but for syncs.

use std::path::Path;

use batpak::prelude::*;
use batpak::store::{BatchAppendItem, CausationRef, DurabilityGate, HlcPoint, WatermarkKind};

use crate::data::{entity, Measurement, ENTITIES, SCOPE};
use crate::{Outcome, PATIENCE};

/// What stands between an append and its answer.
#[derive(Clone, Copy, PartialEq)]
pub enum Sync {
    /// No fsync until the close (a batch has one always: the crate offers no other).
    Never,
    /// One fsync per event, begun after the answer was given: the crate's own way.
    AfterAnswer,
    /// The same, and the answer waits for it: the crate's durability gate.
    BeforeAnswer,
}

/// An event as the append loops take it.
pub struct Prepared {
    place: Coordinate,
    event: Measurement,
}

/// Untimed: nothing is encoded or hashed here.
pub fn prepare(events: &[Measurement]) -> Outcome<Vec<Prepared>> {
    let places = (0..ENTITIES)
        .map(|number| Coordinate::new(entity(number), SCOPE))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(events
        .iter()
        .map(|event| Prepared {
            place: places[(event.number % ENTITIES) as usize].clone(),
            event: event.clone(),
        })
        .collect())
}

pub struct Log {
    store: Store,
    sync: Sync,
}

impl Log {
    pub fn open(directory: &Path, sync: Sync) -> Outcome<Log> {
        let every = if sync == Sync::Never { u32::MAX } else { 1 };
        let config = StoreConfig::new(directory)
            .with_sync_every_n_events(every)
            .with_sync_mode(SyncMode::SyncData);
        Ok(Log {
            store: Store::open(config)?,
            sync,
        })
    }

    /// One commit per event.
    pub fn append_all<'a>(&self, prepared: impl Iterator<Item = &'a Prepared>) -> Outcome<()> {
        if self.sync == Sync::BeforeAnswer {
            let gate = DurabilityGate::new(WatermarkKind::Durable, PATIENCE);
            let options = AppendOptions::new().with_gate(gate);
            for each in prepared {
                let _ = self.store.append_typed_with_options(
                    &each.place,
                    &each.event,
                    options.clone(),
                )?;
            }
        } else {
            for each in prepared {
                let _ = self.store.append_typed(&each.place, &each.event)?;
            }
        }
        Ok(())
    }

    /// One commit per `size` events.
    pub fn append_batches(&self, prepared: &[Prepared], size: usize) -> Outcome<()> {
        for some in prepared.chunks(size) {
            let items = some
                .iter()
                .map(|each| {
                    BatchAppendItem::typed(
                        each.place.clone(),
                        &each.event,
                        AppendOptions::default(),
                        CausationRef::None,
                    )
                })
                .collect::<Result<Vec<_>, _>>()?;
            let _ = self.store.append_batch(items)?;
        }
        Ok(())
    }

    /// Untimed: the ids of all measurements, in order of commit.
    pub fn ids(&self) -> Vec<EventId> {
        self.entries()
            .iter()
            .map(|entry| entry.event_id())
            .collect()
    }

    /// Each event read by its id and its payload decoded.
    pub fn get_all(&self, ids: &[EventId]) -> Outcome<Vec<Measurement>> {
        let mut found = Vec::with_capacity(ids.len());
        for &id in ids {
            found.push(self.store.read_raw(id)?.event.decode_typed()?);
        }
        Ok(found)
    }

    /// Every event in order of commit, its payload decoded: how many, and each thousandth.
    pub fn scan(&self) -> Outcome<(u64, Vec<Measurement>)> {
        let (mut count, mut sample) = (0, Vec::new());
        for entry in self.store.query(&Region::all()) {
            let stored = self.store.read_raw(entry.event_id())?;
            // The store's own opens and closes are events too.
            if let Some(value) = stored.event.route_typed::<Measurement>()? {
                count += 1;
                if count % 1000 == 0 {
                    sample.push(value);
                }
            }
        }
        Ok((count, sample))
    }

    /// Fails unless the syncs asked for are the ones that happened.
    pub fn check_settings(&self, batches: bool) -> Outcome<()> {
        let seen = self.store.frontier();
        if self.sync == Sync::Never && !batches {
            return if seen.durable_hlc < seen.written_hlc {
                Ok(())
            } else {
                Err("asked for no syncs, but everything is durable".into())
            };
        }
        // Where the answer comes first, the last sync may still be under way.
        let last: HlcPoint = seen.written_hlc;
        Ok(self.store.wait_for_durable(last, PATIENCE)?)
    }

    pub fn close(self) -> Outcome<()> {
        let _ = self.store.close()?;
        Ok(())
    }

    fn entries(&self) -> Vec<batpak::store::IndexEntry> {
        let mut found = self.store.by_fact_typed::<Measurement>();
        found.sort_by_key(|entry| entry.global_sequence());
        found
    }
}
