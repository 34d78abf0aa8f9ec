//! The `runc` driver of containerkit: any OCI runtime with runc's command line.

mod options;

use containerkit::oci_spec::runtime::LinuxResources;
use containerkit::runtime::{
    CreateRequest, DeleteMode, ExecRequest, KillScope, RuntimeCapabilities, RuntimeInfo,
    RuntimeState, StartedProcess,
};
use containerkit::{
    ContainerId, Driver, DriverContext, DriverInfo, DriverKind, Error, Result, Runtime,
};

use options::Options;

/// An instance: one runtime program with one folder of its own state.
pub struct Runc {
    #[allow(dead_code)]
    options: Options,
}

impl Driver for Runc {
    fn info() -> DriverInfo {
        DriverInfo {
            name: "runc".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: DriverKind::Runtime,
            options: options::schema(),
        }
    }

    fn open(context: DriverContext) -> Result<Runc> {
        context.check_options(&options::schema())?;
        Ok(Runc {
            options: Options::read(&context)?,
        })
    }
}

impl Runtime for Runc {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::default()
    }
    fn info(&self) -> Result<RuntimeInfo> {
        Err(Error::unimplemented("info"))
    }
    fn create(&self, _: &ContainerId, _: CreateRequest) -> Result<StartedProcess> {
        Err(Error::unimplemented("create"))
    }
    fn start(&self, _: &ContainerId) -> Result<()> {
        Err(Error::unimplemented("start"))
    }
    fn kill(&self, _: &ContainerId, _: i32, _: KillScope) -> Result<()> {
        Err(Error::unimplemented("kill"))
    }
    fn delete(&self, _: &ContainerId, _: DeleteMode) -> Result<()> {
        Err(Error::unimplemented("delete"))
    }
    fn exec(&self, _: &ContainerId, _: ExecRequest) -> Result<StartedProcess> {
        Err(Error::unimplemented("exec"))
    }
    fn state(&self, _: &ContainerId) -> Result<RuntimeState> {
        Err(Error::unimplemented("state"))
    }
    fn list(&self) -> Result<Vec<RuntimeState>> {
        Err(Error::unimplemented("list"))
    }
    fn ps(&self, _: &ContainerId) -> Result<Vec<containerkit::runtime::ProcessEntry>> {
        Err(Error::unimplemented("ps"))
    }
    fn update(&self, _: &ContainerId, _: &LinuxResources) -> Result<()> {
        Err(Error::unimplemented("update"))
    }
}
