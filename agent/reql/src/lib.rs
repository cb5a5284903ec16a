//! RethinkDB driver.
