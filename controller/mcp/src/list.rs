//! Lists, page by page.
//!
//! What goes while a list is read moves everything behind it forward, past the page that comes next. That shows: the
//! total changes, or what was read is not as much as there is, or is there twice. Such a list is read over until it
//! holds, or until two readings in a row found the same (some services do not know their totals). Whatever is in a list
//! of several pages and a look of its own says otherwise, the look is right.

use std::{collections::BTreeSet, ops::ControlFlow};

use crate::{
    Client, Filter, McpError, Resource,
    client::kind_word,
    error::{Refusal, Source},
    types::Page,
};

/// Items asked for per page; the service's maximum.
const PAGE_SIZE: u32 = 250;
/// Most items of one list: far more than accounts may hold, and few enough to be held here.
const MOST: usize = 100_000;
/// How often a list that changes meanwhile is read.
const READINGS: usize = 4;

/// A list as it was read, page by page.
struct Reading<T> {
    items: Vec<T>,
    names: BTreeSet<String>,
    pages: u32,
    total: Option<u32>,
    /// Nothing was seen of it that contradicts it.
    holds: bool,
    /// Its end was seen.
    whole: bool,
}

impl<T: Resource> Reading<T> {
    fn new() -> Self {
        Self { items: Vec::new(), names: BTreeSet::new(), pages: 0, total: None, holds: true, whole: false }
    }

    /// Takes the next page; breaks at the end of the list.
    fn take(&mut self, page: Page<T>) -> Result<ControlFlow<()>, Source> {
        self.pages += 1;
        let got = page.items.len();
        let before = self.items.len();
        for (item, name) in page.items.into_iter().zip(page.names) {
            // The place in the list it had before, or has now: either way it is one.
            if self.names.insert(name) {
                self.items.push(item);
            } else {
                self.holds = false;
            }
        }
        if self.items.len() > MOST {
            return Err(format!("the list has more than {MOST} items").into());
        }
        if self.pages > 1 && page.total != self.total {
            self.holds = false;
        }
        self.total = page.total;
        // A short page does not end a list: only the total says how much there is. Without a total, a page that is not
        // full is the last. An empty page always is.
        let complete = match page.total {
            Some(total) => self.items.len() >= total as usize,
            None => got < page.size.unwrap_or(PAGE_SIZE) as usize,
        };
        if complete || got == 0 {
            // One answer is of one moment.
            self.whole = true;
            self.holds = self.pages == 1
                || (self.holds && self.total.is_none_or(|total| self.items.len() == total as usize));
            return Ok(ControlFlow::Break(()));
        }
        // All of it was on pages before: it moves fast, or never ends.
        Ok(if self.items.len() == before { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl Client {
    /// Everything of kind `T` that `filter` lets through, all pages.
    ///
    /// # Errors
    /// The service cannot be asked, its list does not end, or it changes each time it is read.
    pub async fn list<T: Resource>(&self, filter: &Filter) -> Result<Vec<T>, McpError> {
        let mut before = None;
        for _ in 0..READINGS {
            let reading = self.read_list::<T>(filter).await?;
            let same = before.as_ref() == Some(&reading.names);
            if reading.whole && (reading.holds || same) {
                return Ok(reading.items);
            }
            if same {
                return Err(self.read::<T>("LIST", T::PATH).await?.garbled("the list does not end".into()));
            }
            tracing::debug!(list = kind_word::<T>(), pages = reading.pages, "list is read over");
            before = Some(reading.names);
        }
        Err(McpError::Transient(Refusal {
            operation: format!("LIST_{}", kind_word::<T>()),
            code: "UNSTEADY".to_owned(),
            message: format!("the list changed each of the {READINGS} times it was read"),
            request_id: None,
            retry_after: None,
        }))
    }

    async fn read_list<T: Resource>(&self, filter: &Filter) -> Result<Reading<T>, McpError> {
        let mut reading = Reading::new();
        loop {
            let mut call = self.read::<T>("LIST", T::PATH).await?;
            call.query = filter.pairs().to_vec();
            call.query.push(("pageSize".to_owned(), PAGE_SIZE.to_string()));
            call.query.push(("pageNumber".to_owned(), (reading.pages + 1).to_string()));
            let answer = self.send(&call).await?;
            let page = call
                .json(&answer)
                .and_then(|value| Page::<T>::decode(value).map_err(|error| call.garbled(error.into())))?;
            if reading.take(page).map_err(|why| call.garbled(why))?.is_break() {
                return Ok(reading);
            }
        }
    }
}
