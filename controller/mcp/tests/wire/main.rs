//! Every wire type, in both forms: what is written can be read, and means the same.

mod any;
mod round_trip;
