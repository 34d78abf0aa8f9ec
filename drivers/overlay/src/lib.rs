//! The `overlay` driver of containerkit: snapshots as folders that the
//! kernel's overlay file system stacks.
//!
//! ```text
//! ROOT/metadata.db           keys, kinds, parents, labels (SQLite)
//! ROOT/snapshots/ID/fs       what the snapshot itself has: an overlay's upper
//! ROOT/snapshots/ID/work     an overlay's work folder, until it is committed
//! ROOT/trash/                removed or orphaned, to be deleted
//! ROOT/empty                 the lower layer of what has no parent
//! ```
//!
//! A snapshot exists when its row does. Its folder is made inside the
//! transaction that adds the row, and set aside after the one that drops it,
//! so that a process killed in between leaves a folder without a row and never
//! a row without a folder. Such a folder has the number of the next snapshot,
//! or the transaction noted it as garbage: so
//! [`cleanup`](containerkit::Snapshotter::cleanup), which every removal ends
//! with, finds it without looking at the others. Only one writer is ever inside
//! a transaction, so a folder without a row seen from inside one belongs to
//! nobody.
//!
//! | module | what lives there |
//! |---|---|
//! | `driver` | the contract, method by method |
//! | `database`, `rows` | the metadata file; the queries |
//! | `folders` | the folders on disk, and the trash |
//! | `stack` | from a chain of folders to a `Mount` |
//! | `usage` | who works on a snapshot, who has it mounted |
//! | `probe` | whether the file system can serve |

mod database;
mod driver;
mod folders;
mod probe;
mod rows;
mod stack;
mod usage;

pub use driver::Overlay;
