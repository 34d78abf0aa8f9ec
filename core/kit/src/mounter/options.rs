//! Mount options taken apart: what belongs to the mount, what to the file
//! system.

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use crate::error::{Error, Result, quote};
use crate::idmap::{IdMapping, OPTION};
use crate::mount::Mount;
use crate::sys::MountAttr;

/// The options of one mount.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) bind: bool,
    pub(super) recursive: bool,
    pub(super) read_only: bool,
    set: u64,
    clear: u64,
    propagation: Option<MountPropagationFlags>,
    /// Of a bind's source, or of the layers of an overlay.
    pub(super) mapping: Option<IdMapping>,
    /// For the file system, in order: `key=value` or a flag.
    pub(super) data: Vec<(String, Option<String>)>,
}

impl Options {
    pub(super) fn parse(mount: &Mount) -> Result<Options> {
        let mut options = Options {
            bind: mount.fstype == "bind",
            ..Options::default()
        };
        for option in &mount.options {
            if option.contains('\0') {
                return Err(Error::invalid(format!(
                    "{}: option {} holds a NUL",
                    super::name(mount),
                    quote(option)
                )));
            }
            options.add(option).map_err(|why| {
                Error::invalid(format!(
                    "{}: option {}: {why}",
                    super::name(mount),
                    quote(option)
                ))
            })?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) -> Result<(), &'static str> {
        match option {
            "" | "defaults" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "remount" | "move" => return Err("mounts are made, never changed"),
            "private" | "rprivate" => self.propagation = Some(MountPropagationFlags::PRIVATE),
            "slave" | "rslave" => self.propagation = Some(MountPropagationFlags::DOWNSTREAM),
            "shared" | "rshared" => self.propagation = Some(MountPropagationFlags::SHARED),
            "unbindable" | "runbindable" => {
                self.propagation = Some(MountPropagationFlags::UNBINDABLE);
            }
            "ro" => {
                self.read_only = true;
                self.attribute(MountAttrFlags::MOUNT_ATTR_RDONLY, true);
            }
            "rw" => {
                self.read_only = false;
                self.attribute(MountAttrFlags::MOUNT_ATTR_RDONLY, false);
            }
            "nosuid" => self.attribute(MountAttrFlags::MOUNT_ATTR_NOSUID, true),
            "suid" => self.attribute(MountAttrFlags::MOUNT_ATTR_NOSUID, false),
            "nodev" => self.attribute(MountAttrFlags::MOUNT_ATTR_NODEV, true),
            "dev" => self.attribute(MountAttrFlags::MOUNT_ATTR_NODEV, false),
            "noexec" => self.attribute(MountAttrFlags::MOUNT_ATTR_NOEXEC, true),
            "exec" => self.attribute(MountAttrFlags::MOUNT_ATTR_NOEXEC, false),
            "nodiratime" => self.attribute(MountAttrFlags::MOUNT_ATTR_NODIRATIME, true),
            "diratime" => self.attribute(MountAttrFlags::MOUNT_ATTR_NODIRATIME, false),
            "nosymfollow" => self.attribute(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, true),
            "noatime" => self.access_time(MountAttrFlags::MOUNT_ATTR_NOATIME),
            "strictatime" => self.access_time(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
            "relatime" => self.access_time(MountAttrFlags::MOUNT_ATTR_RELATIME),
            _ if option.starts_with("idmap=") => {
                let text = option.trim_start_matches("idmap=");
                self.mapping = Some(text.parse().map_err(|_| "want idmap=UIDS;GIDS")?);
                // Where it stands says which layers it is for.
                self.data.push((OPTION.into(), None));
            }
            _ => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (option.into(), None),
            }),
        }
        Ok(())
    }

    fn attribute(&mut self, flag: MountAttrFlags, on: bool) {
        let bits = u64::from(flag.bits());
        if on {
            self.set |= bits;
            self.clear &= !bits;
        } else {
            self.set &= !bits;
            self.clear |= bits;
        }
    }

    /// The access-time modes are one number, which the kernel changes only
    /// when the whole field is cleared.
    fn access_time(&mut self, mode: MountAttrFlags) {
        let field = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
        self.set = (self.set & !field) | u64::from(mode.bits());
        self.clear |= field;
    }

    pub(super) fn attributes(&self) -> MountAttr {
        let propagation = self.propagation.unwrap_or(MountPropagationFlags::PRIVATE);
        MountAttr {
            set: self.set,
            clear: self.clear,
            propagation: u64::from(propagation.bits()),
            userns_fd: 0,
        }
    }
}
