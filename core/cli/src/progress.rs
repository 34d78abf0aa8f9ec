//! How far long work is, to stderr: bars on a terminal, else a line a layer;
//! with `--format json` an object a line.
//!
//! Lines begin with `[`, as log lines do: what begins with `error: ` or
//! `hint: ` is the result's.

mod transfer;

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use containerkit::{Digest, IoContext, Result, Timestamp};
use containerkit_image::{Cancel, Event};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::output::{Format, human_size};

/// Whose stderr it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stderr {
    /// The command's own.
    Own,
    /// The container's too: bars that go away, and nothing else.
    Shared,
}

/// A receiver of events.
pub(crate) struct Progress {
    form: Form,
    layers: Mutex<HashMap<usize, Layer>>,
    blobs: Mutex<HashMap<Digest, ProgressBar>>,
    moving: Mutex<HashMap<Digest, transfer::Moving>>,
    /// Ends the work early.
    pub(crate) cancel: Cancel,
}

enum Form {
    Bars(MultiProgress, Stderr),
    Lines,
    Json,
    Silent,
}

struct Layer {
    of: usize,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For one piece of work. From now on a signal ends it in order instead of
    /// ending the process; a second one ends the process.
    pub(crate) fn new(format: Format, stderr: Stderr) -> Result<Progress> {
        let cancel = Cancel::default();
        let signals = [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ];
        for signal in signals {
            if stderr == Stderr::Own {
                signal_hook::flag::register_conditional_shutdown(
                    signal,
                    128 + signal,
                    cancel.flag(),
                )
                .io_context(|| "prepare for signals")?;
            }
            signal_hook::flag::register(signal, cancel.flag())
                .io_context(|| "prepare for signals")?;
        }
        let form = match (format, stderr) {
            (Format::Json, Stderr::Own) => Form::Json,
            (Format::Text, _) if std::io::stderr().is_terminal() => {
                let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
                Form::Bars(bars, stderr)
            }
            (Format::Text, Stderr::Own) => Form::Lines,
            (_, Stderr::Shared) => Form::Silent,
        };
        Ok(Progress {
            form,
            layers: Mutex::default(),
            blobs: Mutex::default(),
            moving: Mutex::default(),
            cancel,
        })
    }

    /// Takes an event, from whatever thread.
    pub(crate) fn event(&self, event: Event) {
        match &self.form {
            Form::Json => print(&document(&event)),
            Form::Silent => {}
            Form::Lines => self.lines(&event),
            Form::Bars(bars, stderr) => {
                self.bars(bars, &event);
                if *stderr == Stderr::Own {
                    self.lines(&event);
                }
            }
        }
    }

    fn lines(&self, event: &Event) {
        let line = match event {
            Event::Unpacking { layer, layers, .. } => {
                self.begin(*layer, *layers, None);
                return;
            }
            Event::Waiting { layer, layers, pid } => {
                let who = match pid {
                    Some(pid) => format!("process {pid}"),
                    None => "another process".into(),
                };
                format!("[layer {layer}/{layers}] {who} unpacks it: waiting")
            }
            Event::Applied {
                layer,
                entries,
                bytes,
            } => {
                let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(known) = layers.get(layer) else {
                    return;
                };
                let seconds = known.since.elapsed().as_secs_f64();
                let rate = (*bytes as f64 / seconds.max(0.001)) as u64;
                format!(
                    "[layer {layer}/{}] {entries} entries, {} in {seconds:.1} s ({}/s)",
                    known.of,
                    human_size(*bytes),
                    human_size(rate)
                )
            }
            _ => return,
        };
        match &self.form {
            Form::Bars(bars, _) => drop(bars.println(line)),
            _ => print(&line),
        }
    }

    fn begin(&self, layer: usize, of: usize, bar: Option<ProgressBar>) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = layers.entry(layer).or_insert_with(|| Layer {
            of,
            since: Instant::now(),
            bar: None,
        });
        if bar.is_some() {
            known.bar = bar;
        }
    }

    fn bar_of(&self, layer: usize) -> Option<ProgressBar> {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.get(&layer).and_then(|layer| layer.bar.clone())
    }

    fn bars(&self, bars: &MultiProgress, event: &Event) {
        match event {
            Event::Storing { digest, size } => {
                let bar = add(bars, *size, short(digest), "storing");
                let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
                blobs.insert(digest.clone(), bar);
            }
            Event::StoringProgress { digest, bytes } => {
                let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bar) = blobs.get(digest) {
                    bar.set_position(*bytes);
                }
            }
            Event::Stored { digest } => {
                let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bar) = blobs.remove(digest) {
                    bar.finish_and_clear();
                }
            }
            Event::Unpacking {
                layer,
                layers,
                size,
                ..
            } => {
                if let Some(old) = self.bar_of(*layer) {
                    old.finish_and_clear();
                }
                let bar = add(bars, *size, format!("layer {layer}/{layers}"), "unpacking");
                self.begin(*layer, *layers, Some(bar));
            }
            Event::Progress { layer, read, .. } => {
                if let Some(bar) = self.bar_of(*layer) {
                    bar.set_position(*read);
                }
            }
            Event::Applied { layer, .. } => {
                if let Some(bar) = self.bar_of(*layer) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // After a failure some are still there.
        if let Form::Bars(bars, _) = &self.form {
            let _ = bars.clear();
        }
    }
}

fn add(bars: &MultiProgress, size: u64, name: String, stage: &'static str) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(size));
    if let Ok(style) = ProgressStyle::with_template(
        "{prefix:20} {msg:10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
    ) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name);
    bar.set_message(stage);
    bar
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// One write, so that lines of several threads do not mix. Whoever reads them
/// may have gone: that is no reason to fail.
fn print(line: &str) {
    let _ = std::io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

fn document(event: &Event) -> String {
    let mut value = match event {
        Event::Storing { digest, size } => {
            json!({ "type": "storing", "digest": digest, "size": size })
        }
        Event::StoringProgress { digest, bytes } => {
            json!({ "type": "storing_progress", "digest": digest, "bytes": bytes })
        }
        Event::Stored { digest } => json!({ "type": "stored", "digest": digest }),
        Event::Waiting { layer, layers, pid } => {
            json!({ "type": "waiting", "layer": layer, "layers": layers, "pid": pid })
        }
        Event::Unpacking {
            layer,
            layers,
            diff_id,
            size,
        } => json!({
            "type": "unpacking", "layer": layer, "layers": layers, "diff_id": diff_id,
            "size": size,
        }),
        Event::Progress { layer, read, bytes } => {
            json!({ "type": "progress", "layer": layer, "read": read, "bytes": bytes })
        }
        Event::Applied {
            layer,
            entries,
            bytes,
        } => json!({ "type": "applied", "layer": layer, "entries": entries, "bytes": bytes }),
        Event::Syncing { layers } => json!({ "type": "syncing", "layers": layers }),
        Event::Unpacked {
            layer,
            entries,
            bytes,
        } => json!({ "type": "unpacked", "layer": layer, "entries": entries, "bytes": bytes }),
        _ => json!({ "type": "other" }),
    };
    value["time"] = Value::String(Timestamp::now().to_string());
    value.to_string()
}
