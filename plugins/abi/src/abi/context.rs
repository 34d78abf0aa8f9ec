//! The host's side of what a driver is given: its logger and its context.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RArc, RSlice, RStr};
use containerkit::{DriverContext, Result};
use log::{Log, Metadata, Record};

use super::convert::json_out;
use super::guard::catch;
use super::logger;
use super::mirror::*;

/// One a shared object: two instances of one library share its statics, and
/// so its logger.
struct HostLogger {
    library: Box<str>,
}

impl FLogger for HostLogger {
    fn max_level(&self) -> u32 {
        log::max_level() as u32
    }

    fn log(&self, level: u32, target: RStr<'_>, message: RStr<'_>) {
        // A logger that panics must not take the driver's call with it.
        let _ = catch(|| {
            let level = logger::level(level);
            let metadata = Metadata::builder()
                .level(level)
                .target(target.as_str())
                .build();
            let logger: &dyn Log = log::logger();
            if logger.enabled(&metadata) {
                logger.log(
                    &Record::builder()
                        .metadata(metadata)
                        .module_path(Some(&self.library))
                        .args(format_args!("{}", message.as_str()))
                        .build(),
                );
            }
        });
    }
}

/// The logger of a library, known by its file's name.
pub fn logger_of(path: &Path) -> FLoggerArc {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let logger = HostLogger {
        library: name.to_string_lossy().into(),
    };
    FLogger_TO::from_ptr(RArc::new(logger), TD_Opaque)
}

struct HostContext {
    context: DriverContext,
    options: String,
}

impl FHost for HostContext {
    fn instance(&self) -> RStr<'_> {
        self.context.instance.as_str().into()
    }
    fn root(&self) -> RSlice<'_, u8> {
        self.context.root.as_os_str().as_bytes().into()
    }
    fn state(&self) -> RSlice<'_, u8> {
        self.context.state.as_os_str().as_bytes().into()
    }
    fn options_json(&self) -> RStr<'_> {
        self.options.as_str().into()
    }
}

/// A context on its way out.
pub fn context_out(context: DriverContext) -> Result<FHostArc> {
    let options = json_out(&context.options)?.into_string();
    Ok(FHost_TO::from_ptr(
        RArc::new(HostContext { context, options }),
        TD_Opaque,
    ))
}
