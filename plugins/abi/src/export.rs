//! [`export_driver!`](crate::export_driver): the line that makes a shared
//! object of a driver.

/// Makes the crate, a `cdylib`, a loadable driver: one symbol,
/// `containerkit_driver_decl`.
///
/// One or several of `runtime:`, `snapshotter:` and `content:`, each with a
/// type that implements [`Driver`](crate::Driver) and the trait of that kind:
///
/// ```text
/// containerkit_plugin::export_driver!(snapshotter: containerkit_overlay::Overlay);
/// containerkit_plugin::export_driver!(snapshotter: Tree, content: Blobs);
/// ```
///
/// A driver is built with `panic = "unwind"`, which is cargo's default: a
/// panic becomes an error of the call.
#[macro_export]
macro_rules! export_driver {
    ($($kind:ident : $driver:ty),+ $(,)?) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a containerkit driver must be built with panic = \"unwind\": its panics become errors"
        );

        #[allow(unsafe_code, missing_docs)]
        const _: () = {
            extern "C" fn info(
                kind: u32,
            ) -> $crate::abi::value::FResult<$crate::abi::RString> {
                $(if kind == $crate::__driver_kind!($kind).bit() {
                    return $crate::abi::export::info::<$driver>($crate::__driver_kind!($kind));
                })+
                $crate::abi::export::no_info()
            }

            fn module() -> $crate::abi::mirror::DriverModule_Ref {
                let mut module = $crate::abi::mirror::DriverModule {
                    init: $crate::abi::logger::init,
                    set_log_level: $crate::abi::logger::set_level,
                    info,
                    runtime: $crate::abi::RNone,
                    snapshotter: $crate::abi::RNone,
                    content: $crate::abi::RNone,
                };
                $($crate::__set_constructor!(module, $kind, $driver);)+
                $crate::abi::PrefixTypeTrait::leak_into_prefix(module)
            }

            extern "C" fn load() -> $crate::abi::RootModuleResult {
                $crate::abi::__call_root_module_loader(module)
            }

            // SAFETY: `load` returns a `DriverModule_Ref`.
            static HEADER: $crate::abi::LibHeader = unsafe {
                $crate::abi::LibHeader::from_constructor::<$crate::abi::mirror::DriverModule_Ref>(
                    load,
                    $crate::abi::CheckTypeLayout::Yes,
                )
            };

            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static containerkit_driver_decl: $crate::abi::declaration::DriverDeclaration =
                $crate::abi::declaration::DriverDeclaration::new(
                    0 $(| $crate::__driver_kind!($kind).bit())+,
                    &HEADER,
                );
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __driver_kind {
    (runtime) => {
        $crate::DriverKind::Runtime
    };
    (snapshotter) => {
        $crate::DriverKind::Snapshotter
    };
    (content) => {
        $crate::DriverKind::Content
    };
    ($other:ident) => {
        ::core::compile_error!("want runtime:, snapshotter: or content:")
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __set_constructor {
    ($module:ident, runtime, $driver:ty) => {
        $module.runtime = $crate::abi::RSome($crate::abi::export::open_runtime::<$driver>)
    };
    ($module:ident, snapshotter, $driver:ty) => {
        $module.snapshotter = $crate::abi::RSome($crate::abi::export::open_snapshotter::<$driver>)
    };
    ($module:ident, content, $driver:ty) => {
        $module.content = $crate::abi::RSome($crate::abi::export::open_content::<$driver>)
    };
}
