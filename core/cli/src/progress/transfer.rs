//! Blobs between registries and here.

use std::sync::PoisonError;
use std::time::Instant;

use containerkit::{Digest, Timestamp};
use containerkit_distribution::{Event, How, Transfer};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{Form, Progress, Stderr, add, print, short};
use crate::output::human_size;

/// A blob that moves.
pub(super) struct Moving {
    size: u64,
    offset: u64,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Takes an event of a transfer, from whatever thread.
    pub(crate) fn transfer(&self, event: Event) {
        let bars = match &self.form {
            Form::Json => return print(&document(&event)),
            Form::Silent => return,
            Form::Lines => None,
            Form::Bars(bars, _) => Some(bars),
        };
        let line = match event {
            Event::Begin {
                transfer,
                digest,
                size,
                offset,
            } => {
                let bar = bars.map(|bars| {
                    let stage = match transfer {
                        Transfer::Download => "pulling",
                        Transfer::Upload => "pushing",
                    };
                    let bar = add(bars, size, short(&digest), stage);
                    bar.set_position(offset);
                    bar
                });
                self.begin_blob(digest, size, offset, bar);
                return;
            }
            Event::Progress { digest, bytes } => {
                let moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
                let known = moving.get(&digest).and_then(|moving| moving.bar.as_ref());
                if let Some(bar) = known {
                    bar.set_position(bytes);
                }
                return;
            }
            Event::Waiting { digest, pid } => {
                let who = match pid {
                    Some(pid) => format!("process {pid}"),
                    None => "another process".into(),
                };
                format!("[blob {}] {who} fetches it: waiting", short(&digest))
            }
            Event::End { digest, how, .. } => self.end_blob(&digest, how),
            _ => return,
        };
        match &self.form {
            Form::Bars(bars, Stderr::Own) => drop(bars.println(line)),
            Form::Lines => print(&line),
            _ => {}
        }
    }

    fn begin_blob(&self, digest: Digest, size: u64, offset: u64, bar: Option<ProgressBar>) {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        match moving.get_mut(&digest) {
            // The next chunk, or another attempt.
            Some(known) => {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                if let Some(bar) = &known.bar {
                    bar.set_position(offset);
                }
            }
            None => {
                let since = Instant::now();
                let new = Moving {
                    size,
                    offset,
                    since,
                    bar,
                };
                moving.insert(digest, new);
            }
        }
    }

    fn end_blob(&self, digest: &Digest, how: How) -> String {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let known = moving.remove(digest);
        if let Some(bar) = known.as_ref().and_then(|known| known.bar.as_ref()) {
            bar.finish_and_clear();
        }
        let short = short(digest);
        match (how, known) {
            (How::Moved, Some(known)) => {
                let seconds = known.since.elapsed().as_secs_f64();
                let bytes = known.size.saturating_sub(known.offset);
                let rate = (bytes as f64 / seconds.max(0.001)) as u64;
                let resumed = match known.offset {
                    0 => String::new(),
                    offset => format!(", from {} on", human_size(offset)),
                };
                format!(
                    "[blob {short}] {} in {seconds:.1} s ({}/s){resumed}",
                    human_size(bytes),
                    human_size(rate)
                )
            }
            (How::Moved, None) => format!("[blob {short}] moved"),
            (How::There, _) => format!("[blob {short}] is there already"),
            (How::Mounted, _) => format!("[blob {short}] mounted from another repository"),
        }
    }
}

fn document(event: &Event) -> String {
    let way = |transfer: &Transfer, down: &'static str, up: &'static str| match transfer {
        Transfer::Download => down,
        Transfer::Upload => up,
    };
    let mut value = match event {
        Event::Begin {
            transfer,
            digest,
            size,
            offset,
        } => json!({
            "type": way(transfer, "downloading", "uploading"), "digest": digest, "size": size,
            "offset": offset,
        }),
        Event::Progress { digest, bytes } => {
            json!({ "type": "transferred", "digest": digest, "bytes": bytes })
        }
        Event::Waiting { digest, pid } => {
            json!({ "type": "waiting_blob", "digest": digest, "pid": pid })
        }
        Event::End {
            transfer,
            digest,
            how,
        } => json!({
            "type": way(transfer, "downloaded", "uploaded"), "digest": digest,
            "how": match how {
                How::Moved => "moved",
                How::There => "there",
                How::Mounted => "mounted",
            },
        }),
        _ => json!({ "type": "other" }),
    };
    value["time"] = Value::String(Timestamp::now().to_string());
    value.to_string()
}
