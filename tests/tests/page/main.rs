//! The todo page in a browser: by keyboard alone, as a screen reader hears it, on a phone, and when answers are lost.

mod place;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use fantoccini::key::Key;
use fleet_tests::Browser;
use place::Place;
use serde_json::{Value, json};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// CSS pixels.
const DESKTOP: (u32, u32) = (1280, 800);
const PHONE: (u32, u32) = (390, 844);
/// Least side of what a finger is to hit, in CSS pixels (WCAG 2.2, success criterion 2.5.5).
const FINGER: f64 = 44.0;

/// A browser that shows the page.
struct Reader(Browser);

impl Reader {
    async fn of(place: &Place, browser: Browser) -> Self {
        browser.page().goto(&place.url()).await.expect("the page loads");
        let reader = Self(browser);
        // The events have come: from here on the script is at work.
        reader.until("document.getElementById('node').textContent === 'here'").await;
        reader
    }

    async fn say(&self, script: &str) -> Value {
        self.0.page().execute(script, vec![]).await.expect("a script runs")
    }

    async fn until(&self, what: &str) {
        let started = Instant::now();
        while self.say(&format!("return {what}")).await != true {
            assert!(
                started.elapsed() < PATIENCE,
                "in vain: {what}\n{}",
                self.say("return document.body.innerText").await
            );
        }
    }

    /// Presses keys, wherever the focus is.
    async fn press(&self, keys: &str) {
        let focused = self.0.page().active_element().await.expect("something has the focus");
        focused.send_keys(keys).await.expect("keys");
    }

    async fn key(&self, key: Key) {
        self.press(&char::from(key).to_string()).await;
    }

    /// Presses Tab until the focus is on this.
    async fn tab_to(&self, selector: &str) {
        for _ in 0..40 {
            if self.has_focus(selector).await {
                return;
            }
            self.key(Key::Tab).await;
        }
        panic!("Tab does not lead to {selector}");
    }

    async fn has_focus(&self, selector: &str) -> bool {
        self.say(&format!("return document.activeElement.matches({selector:?})")).await == true
    }

    async fn add(&self, text: &str) {
        self.press(&format!("{text}{}", char::from(Key::Enter))).await;
        self.until(&format!("{} !== undefined", row(text))).await;
    }

    async fn picture(&self, name: &str) {
        self.0.picture(&pictures().join(format!("page-{name}.png"))).await;
    }
}

/// An expression for the row that shows `text`; texts here need no quoting.
fn row(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#list li')].find(row => row.querySelector('.text').textContent === '{text}')"
    )
}

/// Pictures are kept for people to look at.
fn pictures() -> PathBuf {
    let dist = std::env::var_os("FLEET_DIST").expect("FLEET_DIST names the folder of finished programs");
    PathBuf::from(dist).join("../pictures")
}

#[tokio::test]
async fn everything_is_done_by_keyboard_alone() {
    let place = Place::new().await;
    let reader = Reader::of(&place, Browser::start(DESKTOP.0, DESKTOP.1).await).await;
    assert!(reader.has_focus("#new-todo").await, "one can type at once");
    for text in ["Peel", "Cut", "Fry"] {
        reader.add(text).await;
    }
    reader.tab_to("#list li:first-child .toggle").await;
    reader.picture("keyboard").await;
    reader.press(" ").await;
    reader.until(&format!("{}.matches('.completed')", row("Peel"))).await;
    assert!(reader.has_focus("#list li:first-child .toggle").await, "the focus stays where it was");

    reader.tab_to("#list li:nth-child(2) .text").await;
    reader.key(Key::F2).await;
    assert!(reader.has_focus(".edit").await);
    reader.press(&format!(" up{}", char::from(Key::Enter))).await;
    reader.until(&format!("{} !== undefined", row("Cut up"))).await;
    assert!(reader.has_focus("#list li:nth-child(2) .text").await, "back where it was");
    reader.key(Key::Enter).await;
    reader.press(&format!("xyz{}", char::from(Key::Escape))).await;
    assert!(reader.has_focus("#list li:nth-child(2) .text").await);
    assert_eq!(reader.say(&format!("return {} !== undefined", row("Cut up"))).await, true, "taken back");

    reader.tab_to("#list li:nth-child(3) .destroy").await;
    reader.key(Key::Enter).await;
    reader.until(&format!("{} === undefined", row("Fry"))).await;
    assert!(reader.has_focus("#list li .text").await, "not lost with its row");

    reader.tab_to(".filters a[data-show=active]").await;
    reader.key(Key::Enter).await;
    reader.until(&format!("{}.hidden", row("Peel"))).await;
    assert_eq!(reader.say("return location.search").await, "?show=active");
    reader.tab_to(".clear-completed").await;
    reader.key(Key::Enter).await;
    assert!(reader.has_focus("#new-todo").await);
    reader.until("document.getElementById('say').textContent === 'Completed todos were cleared'").await;
    assert_eq!(place.texts().await, ["Cut up"]);
}

#[tokio::test]
async fn a_screen_reader_hears_what_everything_is() {
    let place = Place::new().await;
    let reader = Reader::of(&place, Browser::start(DESKTOP.0, DESKTOP.1).await).await;
    reader.add("Peel").await;
    for (selector, role, name) in [
        ("#new-todo", "textbox", "What needs to be done?"),
        ("#mark-all button", "checkbox", "Mark all as complete"),
        ("#list", "list", "Todos"),
        ("#list li", "listitem", ""),
        ("#list .toggle", "checkbox", "Peel"),
        ("#list .text", "button", "Peel"),
        ("#list .destroy", "button", "Delete Peel"),
        ("nav", "navigation", "Filter"),
        (".filters a[aria-current]", "link", "All"),
        ("h1", "heading", "Todos"),
        ("main", "main", ""),
    ] {
        let script = format!(
            "const e = document.querySelector({selector:?}); return [e.computedRole, e.computedName]"
        );
        assert_eq!(reader.say(&script).await, json!([role, name]), "{selector}");
    }
    assert_eq!(reader.say("return document.getElementById('say').textContent").await, "Added Peel");
    reader.tab_to("#list .toggle").await;
    reader.press(" ").await;
    reader.until("document.querySelector('#list .toggle').ariaChecked === 'true'").await;
    reader.until("document.getElementById('say').textContent === 'Marked as complete'").await;
}

#[tokio::test]
async fn it_fits_a_phone() {
    let place = Place::new().await;
    let reader = Reader::of(&place, Browser::phone(PHONE.0, PHONE.1).await).await;
    assert_eq!(reader.say("return innerWidth").await, PHONE.0, "as wide as a phone");
    reader.picture("phone-empty").await;
    for text in ["Peel the potatoes", "Cut them into sticks"] {
        reader.add(text).await;
    }
    reader.add(&"Frietjes".repeat(20)).await;
    reader.say("document.querySelector('.toggle').click()").await;
    reader.until("document.querySelector('.completed') !== null").await;
    reader.picture("phone").await;
    let wide = reader.say("return document.scrollingElement.scrollWidth").await;
    assert_eq!(wide, PHONE.0, "nothing sticks out");
    let small = format!(
        "return [...document.querySelectorAll('button, a, input:not([type=hidden])')].filter(e => {{
             const {{ width, height }} = e.getBoundingClientRect();
             return width > 0 && (width < {FINGER} || height < {FINGER});
         }}).map(e => e.outerHTML)"
    );
    assert_eq!(reader.say(&small).await, json!([]), "too small for a finger");
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_todo() {
    let place = Place::new().await;
    let reader = Reader::of(&place, Browser::start(DESKTOP.0, DESKTOP.1).await).await;
    // The next request is cut before anybody knows of it, and arrives later all the same.
    reader
        .say(
            "const real = window.fetch;
             window.fetch = (...request) => {
               window.fetch = real;
               window.late = async () => { window.answered = (await real(...request)).status; };
               return Promise.reject(new TypeError('cut'));
             };",
        )
        .await;
    reader.press(&format!("Peel{}", char::from(Key::Enter))).await;
    reader.until("document.getElementById('new-todo').value === 'Peel'").await;
    reader.until("!document.getElementById('trouble').hidden").await;
    reader.picture("answer-lost").await;
    reader.press(&char::from(Key::Enter).to_string()).await;
    reader.until(&format!("{} !== undefined", row("Peel"))).await;
    reader.say("window.late()").await;
    reader.until("window.answered !== undefined").await;
    assert_eq!(reader.say("return window.answered").await, 200, "it is there already");
    assert_eq!(place.texts().await, ["Peel"]);

    // And one that was written although nobody said so: the page sees it come, and takes its text out of the field.
    reader
        .say(
            "const real = window.fetch;
             window.fetch = (...request) => {
               window.fetch = real;
               window.late = () => real(...request);
               return Promise.reject(new TypeError('cut'));
             };",
        )
        .await;
    reader.press(&format!("Cut{}", char::from(Key::Enter))).await;
    reader.until("document.getElementById('new-todo').value === 'Cut'").await;
    reader.say("window.late()").await;
    reader.until(&format!("{} !== undefined", row("Cut"))).await;
    reader.until("document.getElementById('new-todo').value === ''").await;
    assert_eq!(place.texts().await, ["Cut", "Peel"]);
}
