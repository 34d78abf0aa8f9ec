//! A declaration in memory made into a checked module.

#![allow(unsafe_code)]

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    AbiInstability as AI, AbiInstabilityError, AbiInstabilityErrors, check_layout_compatibility,
};
use abi_stable::library::{AbiHeader, AbiHeaderRef, LibraryError};
use abi_stable::std_types::{ROption, RString};
use abi_stable::type_layout::TLFieldOrFunction;
use containerkit::{
    ContentStore, DriverContext, DriverInfo, DriverKind, Error, ErrorKind, Result, Runtime,
    Snapshotter,
};

use super::call::Claim;
use super::check::driver_in;
use super::context::{context_out, logger_of};
use super::convert::{error_in, json_in};
use super::declaration::{DriverDeclaration, number};
use super::guard::{self, catch};
use super::mirror::*;
use super::proxy::Proxy;
use super::value::FResult;
use super::watch::{Subject, watched};

/// The version of the ABI on this side.
pub const VERSION: (u32, u32, u32) = (
    number(env!("CARGO_PKG_VERSION_MAJOR")),
    number(env!("CARGO_PKG_VERSION_MINOR")),
    number(env!("CARGO_PKG_VERSION_PATCH")),
);

/// A driver's module, its layout checked and its logger set.
#[derive(Clone, Copy)]
pub struct Module(DriverModule_Ref);

impl Module {
    /// Checks and initializes the library that `declaration` lies in.
    ///
    /// # Safety
    /// `declaration` points at the declaration of a driver whose magic, size
    /// and version were checked, in a library that is never unloaded.
    pub unsafe fn open(path: &Path, declaration: *const u8) -> Result<Module> {
        guard::install_hook();
        // SAFETY: the caller's promise; the pointer lies in the library for ever.
        let declaration = unsafe { &*declaration.cast::<DriverDeclaration>() };
        // SAFETY: a `LibHeader` begins with its `AbiHeader` in every version
        // of abi_stable, for this very cast; `AbiHeaderRef` is transparent.
        let header: AbiHeaderRef = unsafe {
            std::mem::transmute::<*const DriverHeader, AbiHeaderRef>(
                std::ptr::from_ref(declaration.header).cast(),
            )
        };
        let refuse = |what: String| {
            Error::new(
                ErrorKind::Incompatible,
                format!("driver {}: {what}", path.display()),
            )
            .with_hint("rebuild the driver against this version's containerkit-plugin")
        };
        if !header.is_valid() {
            return Err(refuse(format!(
                "built with abi_stable {}.{}, this program has {}.{}",
                header.abi_major,
                header.abi_minor,
                AbiHeader::VALUE.abi_major,
                AbiHeader::VALUE.abi_minor
            )));
        }
        let checked = catch(|| {
            let header = header.upgrade().map_err(|error| {
                log::debug!("driver {}: {error}", path.display());
                refuse("its C calling convention differs from this program's".into())
            })?;
            if !declaration.is_of_this_build() {
                let layout = header
                    .layout()
                    .ok_or_else(|| refuse("it was built without its data layout".into()))?;
                let ours = <DriverModule_Ref as StableAbi>::LAYOUT;
                let theirs = (declaration.minor, declaration.patch);
                // The checker wants the older side for the interface: that one
                // must be a prefix of the other.
                let (older, newer) = if theirs < (VERSION.1, VERSION.2) {
                    (layout, ours)
                } else {
                    (ours, layout)
                };
                check_layout_compatibility(older, newer).map_err(|errors| {
                    log::debug!("driver {}: {errors}", path.display());
                    refuse(format!(
                        "its data layout differs from containerkit-plugin {}.{}.{}: {}",
                        VERSION.0,
                        VERSION.1,
                        VERSION.2,
                        first_difference(&errors)
                    ))
                })?;
            }
            // SAFETY: the layouts were compared just now, or are of one source.
            unsafe { header.init_root_module_with_unchecked_layout::<DriverModule_Ref>() }
                .map_err(|error| refuse(module_error(&error)))
        });
        let module = match checked {
            Ok(module) => module?,
            Err(text) => {
                return Err(refuse(format!("its data layout cannot be read: {text}")));
            }
        };
        (module.init())(logger_of(path));
        Ok(Module(module))
    }

    /// What the driver of this kind says of itself.
    pub fn info(&self, kind: DriverKind, subject: &'static Subject) -> Result<DriverInfo> {
        let text: FResult<RString> = watched(subject, &"info", || (self.0.info())(kind.bit()));
        driver_in(json_in(text.into_result().map_err(error_in)?)?)
    }

    /// Passes this program's log level on.
    pub fn set_log_level(&self) {
        (self.0.set_log_level())(log::max_level() as u32);
    }

    pub fn runtime(
        &self,
        context: DriverContext,
        subject: &'static Subject,
        claim: Claim,
    ) -> Result<Arc<dyn Runtime>> {
        let driver = open(self.0.runtime(), DriverKind::Runtime, context, subject)?;
        let proxy = Proxy::new(driver, subject, |d| d.capabilities(), claim)?;
        Ok(Arc::new(proxy))
    }

    pub fn snapshotter(
        &self,
        context: DriverContext,
        subject: &'static Subject,
        claim: Claim,
    ) -> Result<Arc<dyn Snapshotter>> {
        let driver = open(
            self.0.snapshotter(),
            DriverKind::Snapshotter,
            context,
            subject,
        )?;
        let proxy = Proxy::new(driver, subject, |d| d.capabilities(), claim)?;
        Ok(Arc::new(proxy))
    }

    pub fn content(
        &self,
        context: DriverContext,
        subject: &'static Subject,
        claim: Claim,
    ) -> Result<Arc<dyn ContentStore>> {
        let driver = open(self.0.content(), DriverKind::Content, context, subject)?;
        let proxy = Proxy::new(driver, subject, |d| d.capabilities(), claim)?;
        Ok(Arc::new(proxy))
    }
}

/// What `DriverDeclaration::header` points at, before its version is known.
enum DriverHeader {}

fn open<T>(
    constructor: ROption<extern "C" fn(FHostArc) -> FResult<T>>,
    kind: DriverKind,
    context: DriverContext,
    subject: &'static Subject,
) -> Result<T> {
    let constructor = constructor.into_option().ok_or_else(|| {
        Error::internal(format!(
            "it declares a {kind} and has no constructor of one"
        ))
    })?;
    let host = context_out(context)?;
    watched(subject, &"open", || constructor(host))
        .into_result()
        .map_err(|error| error_in(error).in_driver(&subject.name, "open"))
}

fn module_error(error: &LibraryError) -> String {
    match error {
        LibraryError::RootModule { .. } => "its module cannot be initialized".into(),
        LibraryError::IncompatibleVersionNumber {
            expected_version,
            actual_version,
            ..
        } => format!(
            "built with containerkit-plugin {actual_version}, this program needs {expected_version}"
        ),
        _ => "its module cannot be read".into(),
    }
}

/// The first difference of a report that has over a thousand lines: which
/// type, what was expected, what was found.
fn first_difference(errors: &AbiInstabilityErrors) -> String {
    let found = errors.errors.iter().find_map(difference);
    found.unwrap_or_else(|| "no difference is named".into())
}

fn difference(error: &AbiInstabilityError) -> Option<String> {
    let first = error.errs.first()?;
    // The innermost field or function on the way to the difference.
    let place = match error.stack_trace.last() {
        Some(place) => match &place.expected {
            TLFieldOrFunction::Field(field) if field.name().starts_with("field_") => {
                field.layout().name().to_owned()
            }
            TLFieldOrFunction::Field(field) => {
                format!("{} (in {})", field.layout().name(), field.name())
            }
            TLFieldOrFunction::Function(function) => format!("the function {}", function.name),
        },
        None => "the module".into(),
    };
    let words = |what: &str, expected: &dyn Display, found: &dyn Display| {
        format!("{place}: {what}: expected {expected}, found {found}")
    };
    Some(match first {
        AI::Size(v) => words("size in bytes", &v.expected, &v.found),
        AI::Alignment(v) => words("alignment", &v.expected, &v.found),
        AI::FieldCountMismatch(v) => words("number of fields", &v.expected, &v.found),
        AI::MismatchedPrefixSize(v) => words("fixed fields", &v.expected, &v.found),
        AI::UnexpectedField(v) => words("field", &v.expected.name(), &v.found.name()),
        AI::Name(v) => words("type", &v.expected, &v.found),
        AI::Package(v) => words("package", &v.expected, &v.found),
        AI::PackageVersion(v) => words("package version", &v.expected, &v.found),
        AI::MismatchedPrimitive(v) => words(
            "primitive type",
            &format!("{:?}", v.expected),
            &format!("{:?}", v.found),
        ),
        other => {
            let text = format!("{other:?}");
            let name = text.split(|c: char| !c.is_alphanumeric()).next();
            format!("{place}: {}", name.unwrap_or("it differs"))
        }
    })
}
