//! The laws every lock backend must keep.
