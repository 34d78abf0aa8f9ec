//! `events`.

use std::os::fd::AsFd;

use containerkit::events::Event;
use containerkit::{Error, Result, Timestamp, quote};

use crate::Outcome;
use crate::app::App;
use crate::args::container::EventsArgs;
use crate::cmd::foreground::Signals;
use crate::cmd::run::containers;
use crate::output::{self, Format};
use crate::time::parse_time;

pub(crate) fn events(app: &App, args: EventsArgs) -> Result<Outcome> {
    let filters = filters(&args.filter)?;
    let since = args.since.as_deref().map(parse_time).transpose()?;
    let until = args.until.as_deref().map(parse_time).transpose()?;
    let signals = Signals::catch()?;
    let mut reader = containers(app)?.events().read()?;
    // One who follows and asks for no past sees none.
    let from = match (since, args.no_stream) {
        (None, false) => Some(Timestamp::now()),
        (since, _) => since,
    };
    loop {
        for event in reader.next_events()? {
            if until.is_some_and(|until| event.time > until) {
                return Ok(Outcome::Success);
            }
            let wanted = from.is_none_or(|from| event.time >= from);
            if wanted && filters.iter().all(|filter| filter.matches(&event)) {
                print(app.format, &event)?;
            }
        }
        let over = until.is_some_and(|until| Timestamp::now() > until);
        if args.no_stream || over || signals.interrupted() || output::reader_gone() {
            return Ok(Outcome::Success);
        }
        // A reader of ours that has gone is seen at the next line only.
        signals.wait(Some(reader.as_fd()))?;
    }
}

fn print(format: Format, event: &Event) -> Result<()> {
    if format == Format::Json {
        return output::print_json_line(event);
    }
    let mut line = format!("{} {}", event.time, event.kind);
    for value in [
        &event.id.as_ref().map(|id| id.short().to_owned()),
        &event.name,
        &event.image,
    ]
    .into_iter()
    .flatten()
    {
        line.push(' ');
        line.push_str(value);
    }
    for (key, value) in &event.attributes {
        line.push_str(&format!(" {key}={value}"));
    }
    output::print_line(&line);
    Ok(())
}

enum Filter {
    Type(String),
    Container(String),
    Image(String),
}

impl Filter {
    fn matches(&self, event: &Event) -> bool {
        match self {
            Filter::Type(kind) => event.kind == *kind,
            Filter::Container(text) => {
                event.name.as_deref() == Some(text)
                    || event
                        .id
                        .as_ref()
                        .is_some_and(|id| id.as_str().starts_with(text))
            }
            Filter::Image(text) => event
                .image
                .as_deref()
                .is_some_and(|image| image == text || same_image(image, text)),
        }
    }
}

/// Whether a user's word names this image.
pub(crate) fn same_image(image: &str, typed: &str) -> bool {
    typed
        .parse::<containerkit::Reference>()
        .is_ok_and(|reference| reference.to_string() == image)
}

fn filters(words: &[String]) -> Result<Vec<Filter>> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("type" | "event", value)) => Ok(Filter::Type(value.to_owned())),
            Some(("container" | "name" | "id", value)) => Ok(Filter::Container(value.to_owned())),
            Some(("image", value)) => Ok(Filter::Image(value.to_owned())),
            _ => Err(Error::invalid(format!(
                "filter {}: want type=, container= or image=",
                quote(word)
            ))),
        })
        .collect()
}
