//! One command on several containers: it goes on after a failure, and one
//! error in the end names all that failed.

use containerkit::{Error, Result};

use crate::Outcome;
use crate::app::App;
use crate::output;

/// Does it to each and prints what it was done to.
pub(crate) fn each(
    app: &App,
    ids: &[String],
    mut act: impl FnMut(&str) -> Result<()>,
) -> Result<Outcome> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for id in ids {
        match act(id) {
            Ok(()) => done.push(id.clone()),
            Err(error) => failed.push((id.clone(), error)),
        }
    }
    output::print_names(app.format, &done)?;
    all(failed)?;
    Ok(Outcome::Success)
}

/// One error of several.
pub(crate) fn all(mut failed: Vec<(String, Error)>) -> Result<()> {
    let Some((_, first)) = failed.first() else {
        return Ok(());
    };
    if failed.len() == 1 {
        return Err(failed.remove(0).1);
    }
    let kind = first.kind();
    let names: Vec<&str> = failed.iter().map(|(id, _)| id.as_str()).collect();
    let whys: Vec<String> = failed.iter().map(|(_, error)| error.to_string()).collect();
    let hint = failed.iter().find_map(|(_, error)| error.hint());
    let error = Error::new(kind, format!("{}: {}", names.join(", "), whys.join("; ")));
    Err(match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    })
}
