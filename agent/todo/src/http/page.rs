//! The page, whole: it works as it is sent, and the script takes it over where there is one.

use axum::{
    extract::{Query, State},
    response::Html,
};
use serde::Deserialize;

use super::App;
use crate::{
    VERSION,
    hub::{Database, View},
    todo::{MOST_CHARS, Show, Todo, TodoId},
};

const PAGE: &str = include_str!("../../assets/page.html");
const ITEM: &str = include_str!("../../assets/item.html");

/// What stands in the URL.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    show: String,
}

/// What went wrong with a form.
pub(super) struct Trouble<'a> {
    pub(super) message: &'a str,
    pub(super) typed: &'a str,
    pub(super) id: Option<TodoId>,
}

/// GET /
pub(super) async fn show(State(app): State<App>, Query(wanted): Query<Wanted>) -> Html<String> {
    render(&app, Show::named(&wanted.show), None)
}

pub(super) fn render(app: &App, show: Show, trouble: Option<&Trouble<'_>>) -> Html<String> {
    let view = app.hub.view();
    Html(page(&view, &app.node, show, trouble))
}

fn page(view: &View, node: &str, show: Show, trouble: Option<&Trouble<'_>>) -> String {
    let left = view.todos.iter().filter(|todo| !todo.completed).count();
    let done = view.todos.len() - left;
    let banner = match view.database {
        Database::Ok => String::new(),
        Database::Away(why) if view.known => {
            format!(
                "{} You see the list as it was last known; nothing can be changed just now.",
                why.message()
            )
        }
        Database::Away(why) => format!("{} The list appears here as soon as it can be read.", why.message()),
    };
    let items: String = view.todos.iter().map(|todo| item(todo, show)).collect();
    let id = trouble.and_then(|trouble| trouble.id).unwrap_or_else(TodoId::random);
    let all_done = left == 0 && done > 0;
    let hidden = |hidden: bool| if hidden { "hidden" } else { "" };
    let current = |link: Show| if link == show { "aria-current=\"page\"" } else { "" };
    fill(PAGE, &|name| {
        Some(match name {
            "banner" => escape(&banner),
            "banner-hidden" => hidden(banner.is_empty()).into(),
            "trouble" => escape(trouble.map_or("", |trouble| trouble.message)),
            "trouble-hidden" => hidden(trouble.is_none()).into(),
            "typed" => escape(trouble.map_or("", |trouble| trouble.typed)),
            "id" => id.to_string(),
            "longest" => MOST_CHARS.to_string(),
            "show" => show.name().into(),
            "items" => items.clone(),
            "blank" => fill(ITEM, &|_| Some(String::new())),
            "list-hidden" => hidden(view.todos.is_empty()).into(),
            "empty-hidden" => hidden(!view.todos.is_empty() || !view.known).into(),
            "all-done" => all_done.to_string(),
            "mark-all" => (!all_done).to_string(),
            "left" => items_left(left),
            "done-hidden" => hidden(done == 0).into(),
            "all" => current(Show::All).into(),
            "active" => current(Show::Active).into(),
            "completed" => current(Show::Completed).into(),
            "node" => escape(node),
            "version" => VERSION.into(),
            _ => return None,
        })
    })
}

fn item(todo: &Todo, show: Show) -> String {
    fill(ITEM, &|name| {
        Some(match name {
            "id" => todo.id.to_string(),
            "created" => todo.created.to_string(),
            "text" => escape(todo.text.as_str()),
            "class" => if todo.completed { "completed" } else { "" }.into(),
            "hidden" => if show.includes(todo) { "" } else { "hidden" }.into(),
            "checked" => todo.completed.to_string(),
            "mark" => (!todo.completed).to_string(),
            "show" => show.name().into(),
            _ => return None,
        })
    })
}

fn items_left(n: usize) -> String {
    format!("{n} {} left", if n == 1 { "item" } else { "items" })
}

/// Puts values for `{{names}}`, in one pass: what is put in is not looked at again.
fn fill(template: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        let value = value(name);
        debug_assert!(value.is_some(), "nothing to put for {name}");
        text.push_str(&value.unwrap_or_default());
        rest = after;
    }
    text.push_str(rest);
    text
}

/// For text and for values in double quotes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{hub::Why, todo::Text};

    fn todo(text: &str, completed: bool) -> Todo {
        let text = Text::new(text).expect("a text");
        Todo {
            id: "7f1a3a52-5a0e-4c3e-9a86-0f9b6b4d5c11".parse().expect("an id"),
            text,
            completed,
            created: 7,
        }
    }

    fn view(todos: Vec<Todo>) -> View {
        View { todos, database: Database::Ok, known: true }
    }

    /// The shape of a document: everything but what stands between and within tags as values.
    fn shape(html: &str) -> Vec<char> {
        html.chars().filter(|c| matches!(c, '<' | '>' | '"' | '\'')).collect()
    }

    #[test]
    fn what_the_page_says() {
        let list = vec![todo("cut", true), todo("fry", false)];
        let html = page(&view(list.clone()), "EU7rethinkSeed", Show::Active, None);
        for part in [
            "1 item left",
            "EU7rethinkSeed",
            "<li data-id=\"7f1a3a52-5a0e-4c3e-9a86-0f9b6b4d5c11\" data-created=\"7\" class=\"completed\" hidden>",
            ">fry<",
            "value=\"active\"",
        ] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        let html = page(&view(vec![]), "n", Show::All, None);
        assert!(html.contains("0 items left"));
        let away = View { todos: list, database: Database::Away(Why::Unreachable), known: true };
        let html = page(&away, "n", Show::All, None);
        assert!(html.contains("does not answer") && html.contains("last known"));
        let trouble = Trouble { message: "a <b>", typed: "\"typed\"", id: None };
        let html = page(&away, "n", Show::All, Some(&trouble));
        assert!(html.contains("a &lt;b&gt;") && html.contains("value=\"&quot;typed&quot;\""));
    }

    proptest! {
        #[test]
        fn no_text_becomes_markup(typed in any::<String>(), shown in "[a-z<>&\"'{}/= ]{1,60}") {
            let plain = page(&view(vec![todo("x", false)]), "n", Show::All, Some(&Trouble {
                message: "m", typed: "t", id: Some(todo("x", true).id),
            }));
            prop_assume!(Text::new(&shown).is_ok());
            let html = page(&view(vec![todo(&shown, false)]), "n", Show::All, Some(&Trouble {
                message: &typed, typed: &typed, id: Some(todo("x", true).id),
            }));
            prop_assert_eq!(shape(&html), shape(&plain));
            // Nothing is lost either.
            let back = |safe: &str| safe.replace("&#39;", "'").replace("&quot;", "\"").replace("&gt;", ">")
                .replace("&lt;", "<").replace("&amp;", "&");
            prop_assert_eq!(back(&escape(&typed)), typed);
        }
    }
}
