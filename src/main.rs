//! Parse the command line, run one command, choose the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use transship::cli::Cli;
use transship::kernel::WipingAllocator;

// It holds secrets, and none of them is to outlast its use.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    Cli::parse().run()
}
