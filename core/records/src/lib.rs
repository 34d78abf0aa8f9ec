//! Image, container and lease records in one SQLite file.
//!
//! [`SqliteRecords`] implements [`containerkit::Records`]. Any number of
//! processes share the file: readers never wait, writers take turns, and who
//! is killed at any instruction leaves the state before or after its call.
//!
//! A record that must outlive a power cut (images, kept containers, leases
//! without an end) is fsynced before the call returns; one of a container that
//! is removed at its end is not, since nothing is lost that the next command
//! would not clean up.
//!
//! | module | what lives there |
//! |---|---|
//! | `file` | finding, making and opening the file; what is wrong with it |
//! | `schema` | the tables, and the ladder from older ones |
//! | `store` | transactions, patience with other writers, errors |
//! | `salvage` | what a damaged file still tells |
//! | `image`, `container`, `lease`, `collect` | the calls |

mod collect;
mod container;
mod file;
mod image;
mod lease;
mod salvage;
mod schema;
mod store;

use std::collections::BTreeSet;
use std::path::Path;

use containerkit::process::ProcessIdentity;
use containerkit::record::{
    Condemned, ContainerRecord, ImageRecord, LeaseRecord, Object, Records, Root, Roots,
};
use containerkit::{ContainerId, Digest, Page, Reference, Result};

pub use salvage::{Salvaged, salvage};

/// The record store.
#[derive(Debug)]
pub struct SqliteRecords {
    store: store::Store,
}

impl SqliteRecords {
    /// Opens the store, making it when there is none. A path that ends in
    /// `.db` is the file, any other the folder of `records.db`.
    ///
    /// A file that is no record database, damaged, or of a newer version is
    /// an error that says so; nothing is ever replaced.
    pub fn open(dir_or_file: &Path) -> Result<SqliteRecords> {
        let path = if dir_or_file.extension().is_some_and(|end| end == "db") {
            dir_or_file.to_path_buf()
        } else {
            dir_or_file.join("records.db")
        };
        Ok(SqliteRecords {
            store: file::open(&path)?,
        })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Reads the whole file and says what is damaged; empty when nothing is.
    pub fn verify(&self) -> Result<Vec<String>> {
        self.store.verify()
    }
}

impl Records for SqliteRecords {
    fn put_image(&self, image: &ImageRecord) -> Result<ImageRecord> {
        image::put(&self.store, image)
    }

    fn image(&self, name: &Reference) -> Result<ImageRecord> {
        image::get(&self.store, name)
    }

    fn images(&self, page: &Page) -> Result<Vec<ImageRecord>> {
        image::list(&self.store, page)
    }

    fn images_of(&self, digest: &Digest) -> Result<Vec<ImageRecord>> {
        image::of_digest(&self.store, digest)
    }

    fn delete_image(&self, name: &Reference) -> Result<()> {
        image::delete(&self.store, name)
    }

    fn create_container(&self, container: &ContainerRecord) -> Result<()> {
        container::create(&self.store, container)
    }

    fn update_container(&self, container: &ContainerRecord) -> Result<()> {
        container::update(&self.store, container)
    }

    fn container(&self, id: &ContainerId) -> Result<ContainerRecord> {
        container::get(&self.store, id)
    }

    fn find_container(&self, text: &str) -> Result<ContainerRecord> {
        container::find(&self.store, text)
    }

    fn containers(&self, page: &Page) -> Result<Vec<ContainerRecord>> {
        container::list(&self.store, page)
    }

    fn image_in_use(&self, digest: &Digest) -> Result<Option<ContainerRecord>> {
        container::of_image(&self.store, digest)
    }

    fn delete_container(&self, id: &ContainerId) -> Result<()> {
        container::delete(&self.store, id)
    }

    fn put_lease(&self, lease: &LeaseRecord) -> Result<()> {
        lease::put(&self.store, lease)
    }

    fn extend_lease(&self, id: &ContainerId, objects: &[Object]) -> Result<()> {
        lease::extend(&self.store, id, objects)
    }

    fn lease(&self, id: &ContainerId) -> Result<LeaseRecord> {
        lease::get(&self.store, id)
    }

    fn leases(&self, page: &Page) -> Result<Vec<LeaseRecord>> {
        lease::list(&self.store, page)
    }

    fn delete_lease(&self, id: &ContainerId) -> Result<()> {
        lease::delete(&self.store, id)
    }

    fn end_leases(&self) -> Result<Vec<LeaseRecord>> {
        lease::end(&self.store)
    }

    fn roots(&self) -> Result<Roots> {
        collect::roots(&self.store)
    }

    fn condemn(
        &self,
        by: &ProcessIdentity,
        objects: &[Object],
        known: &BTreeSet<Root>,
    ) -> Result<Condemned> {
        collect::condemn(&self.store, by, objects, known)
    }

    fn pardon(&self, by: &ProcessIdentity) -> Result<()> {
        collect::pardon(&self.store, by)
    }

    fn condemned(&self, objects: &[Object]) -> Result<Vec<(Object, ProcessIdentity)>> {
        collect::condemned(&self.store, objects)
    }
}
