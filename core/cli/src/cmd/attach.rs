//! `attach`.

use std::os::fd::{AsFd, BorrowedFd};

use containerkit::Result;
use containerkit::container::Containers;
use containerkit::record::ContainerRecord;
use containerkit::shim::{Input, Link, Tell};
use rustix::process::Signal;
use rustix::termios::Winsize;

use crate::Outcome;
use crate::app::App;
use crate::args::container::AttachArgs;
use crate::cmd::foreground::{ENDING, PATIENCE, Signals};
use crate::cmd::lifecycle::find;
use crate::cmd::run::containers;
use crate::cmd::session::{self, After, AtEnd, End, Heard, Streams, Subject};
use crate::keys::Keys;

pub(crate) fn attach(app: &App, args: AttachArgs) -> Result<Outcome> {
    let keys = Keys::parse(&args.detach_keys)?;
    let signals = Signals::catch()?;
    let containers = containers(app)?;
    let record = find(&containers, &args.id)?;
    let link = containers.link(&record)?;
    let input = match args.no_stdin {
        true => Input::Unwanted,
        false => Input::Wanted,
    };
    let attached = link.attach(input)?;
    // The end of what one client types is not the end of a terminal's session.
    let at_end = match attached.terminal {
        true => AtEnd::Nothing,
        false => AtEnd::Close,
    };
    let streams = Streams::attached(attached, keys, at_end)?;
    let mut guest = Guest {
        link,
        containers,
        record,
        passes_signals: !args.no_signals,
    };
    Ok(match session::stay(&mut guest, streams, &signals)? {
        End::Exited(exit) => Outcome::Status(exit.status()),
        End::Left(status) => Outcome::Status(status),
    })
}

/// Somebody else's container.
struct Guest {
    link: Link,
    containers: Containers,
    record: ContainerRecord,
    passes_signals: bool,
}

impl Subject for Guest {
    fn fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    fn hear(&mut self) -> Result<Heard> {
        match self.link.hear()? {
            Some(Tell::Exited { exit }) => Ok(Heard::Ended(exit)),
            Some(Tell::Skipped { bytes }) => {
                log::warn!("{bytes} bytes of output were skipped: they came faster than read");
                Ok(Heard::Nothing)
            }
            Some(_) => Ok(Heard::Nothing),
            // A killed shim: whoever asks puts it in order.
            None => {
                let exit = self.containers.wait(&self.record, &|| false)?;
                Ok(Heard::Ended(exit))
            }
        }
    }

    /// They are the container's, as far as it takes them: it is not killed for
    /// a guest's sake, who may leave by asking three times, or by hanging up.
    fn signal(&self, signal: Signal, asked: u32) -> Result<After> {
        let ending = ENDING.contains(&signal);
        if signal == Signal::HUP || (ending && (asked >= PATIENCE || !self.passes_signals)) {
            return Ok(After::Leave);
        }
        if self.passes_signals {
            self.link.signal(signal.as_raw())?;
        }
        Ok(After::Stay)
    }

    fn resize(&self, size: Winsize) {
        let _ = self.link.resize(size.ws_row, size.ws_col);
    }

    fn close_input(&self) -> Result<()> {
        self.link.close_stdin()
    }
}
