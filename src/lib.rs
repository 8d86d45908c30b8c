//! Praetor

pub mod bus;
