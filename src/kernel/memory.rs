//! Keeping the memory of this process to itself: it holds secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Files and directories that this process makes are nobody else's to read.
pub fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
}

/// From now on a crash writes no memory to disk, and no other process of the
/// same user can read it (`/proc/<pid>/mem`, `environ`, a debugger).
///
/// # Errors
/// When the kernel refuses.
pub fn keep_memory_private() -> std::io::Result<()> {
    // Either would do against dumps; a pattern that pipes into a program looks
    // at the first only, and the first is undone by running another program.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}
