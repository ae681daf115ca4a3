//! Real clients pull private images from a real registry through `transship`.
//!
//! One file per client. None of them holds a credential: what they can pull,
//! they can pull because the proxy has it. On a machine without root or apt
//! every test here says that it was skipped, and passes.

mod answers;
mod authentication;
mod containerd;
mod docker;
mod outage;
mod podman;
mod skopeo;
mod stage;
