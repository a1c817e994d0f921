//! The laws every lock backend must keep.

pub mod history;
