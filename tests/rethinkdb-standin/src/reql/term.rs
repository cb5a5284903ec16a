//! A query as a tree of terms, checked for what the stand-in knows before anything runs.
//!
//! Numbers and argument counts are those of RethinkDB's `ql2.proto` and its documentation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    datum,
    error::{Frame, ReqlError, Result},
};

/// How deep a query may nest; the server's own limit is of this order.
const DEPTH_MAX: usize = 200;

/// One node of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Term {
    /// A plain value.
    Datum(Value),
    /// An object whose fields are terms.
    Object(BTreeMap<String, Term>),
    /// An operation.
    Call {
        /// Which.
        op: Op,
        /// Positional arguments.
        args: Vec<Term>,
        /// Optional arguments.
        options: BTreeMap<String, Term>,
    },
}

macro_rules! ops {
    ($($number:literal $name:ident $least:literal .. $most:literal $([$($option:literal)*])?;)*) => {
        /// Operations the stand-in knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the names are the protocol's own")]
        pub enum Op { $($name,)* }

        impl Op {
            fn of(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Fewest and most positional arguments; `MANY` is no limit.
            fn arguments(self) -> (usize, usize) {
                match self { $(Self::$name => ($least, $most),)* }
            }

            fn options(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($($option,)*)?],)* }
            }
        }
    };
}

ops! {
    2 MakeArray 0 .. 9999;
    10 Var 1 .. 1;
    12 Error 0 .. 1;
    13 ImplicitVar 0 .. 0;
    14 Db 1 .. 1;
    15 Table 1 .. 2 ["read_mode" "use_outdated" "identifier_format"];
    16 Get 2 .. 2;
    78 GetAll 1 .. 9999 ["index"];
    17 Eq 2 .. 9999;
    18 Ne 2 .. 9999;
    19 Lt 2 .. 9999;
    20 Le 2 .. 9999;
    21 Gt 2 .. 9999;
    22 Ge 2 .. 9999;
    23 Not 1 .. 1;
    24 Add 1 .. 9999;
    25 Sub 1 .. 9999;
    26 Mul 1 .. 9999;
    27 Div 1 .. 9999;
    28 Mod 2 .. 2;
    29 Append 2 .. 2;
    30 Slice 2 .. 3 ["left_bound" "right_bound"];
    31 GetField 2 .. 2;
    32 HasFields 1 .. 9999;
    33 Pluck 1 .. 9999;
    34 Without 1 .. 9999;
    35 Merge 1 .. 9999;
    38 Map 2 .. 2;
    39 Filter 2 .. 2 ["default"];
    41 OrderBy 1 .. 9999 ["index"];
    42 Distinct 1 .. 1 ["index"];
    43 Count 1 .. 2;
    45 Nth 2 .. 2;
    51 CoerceTo 2 .. 2;
    52 TypeOf 1 .. 1;
    53 Update 2 .. 2 ["non_atomic" "durability" "return_vals" "return_changes" "ignore_write_hook"];
    54 Delete 1 .. 1 ["durability" "return_vals" "return_changes" "ignore_write_hook"];
    55 Replace 2 .. 2 ["non_atomic" "durability" "return_vals" "return_changes" "ignore_write_hook"];
    56 Insert 2 .. 2 ["conflict" "durability" "return_vals" "return_changes" "ignore_write_hook"];
    57 DbCreate 1 .. 1;
    58 DbDrop 1 .. 1;
    59 DbList 0 .. 0;
    60 TableCreate 1 .. 2
        ["primary_key" "shards" "replicas" "nonvoting_replica_tags" "primary_replica_tag" "durability"];
    61 TableDrop 1 .. 2;
    62 TableList 0 .. 1;
    64 Funcall 1 .. 9999 ["_SHORTCUT_" "_EVAL_FLAGS_"];
    65 Branch 3 .. 9999;
    66 Or 0 .. 9999;
    67 And 0 .. 9999;
    69 Func 2 .. 2;
    70 Skip 2 .. 2;
    71 Limit 2 .. 2;
    73 Asc 1 .. 1;
    74 Desc 1 .. 1;
    79 Info 1 .. 1;
    86 IsEmpty 1 .. 1;
    92 Default 2 .. 2;
    93 Contains 1 .. 9999;
    94 Keys 1 .. 1;
    101 EpochTime 1 .. 1;
    102 ToEpochTime 1 .. 1;
    103 Now 0 .. 0;
    137 Literal 0 .. 1;
    138 Sync 1 .. 1;
    152 Changes 1 .. 1
        ["squash" "changefeed_queue_size" "include_initial" "include_offsets" "include_states" "include_types"];
    169 Uuid 0 .. 1;
    170 Bracket 2 .. 2;
    173 Range 0 .. 2;
    174 Config 1 .. 1;
    175 Status 1 .. 1;
    176 Reconfigure 0 .. 1
        ["dry_run" "emergency_repair" "nonvoting_replica_tags" "primary_replica_tag" "replicas" "shards"];
    177 Wait 0 .. 1 ["timeout" "wait_for"];
}

const MANY: usize = 9999;
const MAKE_OBJECT: u64 = 3;
const DATUM: u64 = 1;

impl Term {
    /// Reads a term from its JSON form.
    ///
    /// # Errors
    /// A compile error with the place in the query.
    pub fn parse(json: &Value) -> Result<Self> {
        let term = parse(json, 0)?;
        term.check_order()?;
        Ok(term)
    }

    /// `asc` and `desc` mean something to `order_by` alone.
    fn check_order(&self) -> Result<()> {
        let word = match self {
            Self::Call { op: Op::Asc, .. } => "ASC",
            Self::Call { op: Op::Desc, .. } => "DESC",
            _ => return Ok(()),
        };
        Err(ReqlError::compile(format!("{word} may only be used as an argument to ORDER_BY or UNION.")))
    }

    /// Whether evaluating this twice could give two answers, or reaches outside the row.
    pub fn is_deterministic(&self) -> bool {
        match self {
            Self::Datum(_) => true,
            Self::Object(fields) => fields.values().all(Self::is_deterministic),
            Self::Call { op, args, options } => {
                !matches!(op, Op::Uuid | Op::Table | Op::Changes)
                    && args.iter().chain(options.values()).all(Self::is_deterministic)
            }
        }
    }
}

fn parse(json: &Value, depth: usize) -> Result<Term> {
    if depth > DEPTH_MAX {
        return Err(ReqlError::compile(format!("Query nests deeper than {DEPTH_MAX} terms.")));
    }
    match json {
        Value::Array(parts) => parse_call(parts, depth),
        Value::Object(fields) => parse_object(fields, depth),
        plain => Ok(Term::Datum(datum::normalise(plain.clone()))),
    }
}

fn parse_object(fields: &Map<String, Value>, depth: usize) -> Result<Term> {
    let terms = parse_fields(fields, depth)?;
    if terms.values().all(|term| matches!(term, Term::Datum(_))) {
        let plain = terms.into_iter().filter_map(|(name, term)| match term {
            Term::Datum(value) => Some((name, value)),
            _ => None,
        });
        return Ok(Term::Datum(Value::Object(plain.collect())));
    }
    Ok(Term::Object(terms))
}

fn parse_fields(fields: &Map<String, Value>, depth: usize) -> Result<BTreeMap<String, Term>> {
    fields
        .iter()
        .map(|(name, value)| {
            let term = parse(value, depth + 1).map_err(|why| why.within(Frame::Option(name.clone())))?;
            Ok((name.clone(), term))
        })
        .collect()
}

fn parse_call(parts: &[Value], depth: usize) -> Result<Term> {
    let Some(Value::Number(number)) = parts.first() else {
        let found = parts.first().map_or_else(|| "nothing".into(), datum::type_name);
        return Err(ReqlError::compile(format!("Expected a TermType as a NUMBER but found {found}.")));
    };
    let number = number.as_u64().unwrap_or(0);
    let args: &[Value] = match parts.get(1) {
        None => &[],
        Some(Value::Array(args)) => args,
        Some(Value::Object(_)) if parts.len() == 2 => &[],
        Some(other) => {
            let found = datum::type_name(other);
            return Err(ReqlError::compile(format!("Expected arguments as an ARRAY but found {found}.")));
        }
    };
    let options = match parts.get(2).or(parts.get(1)) {
        Some(Value::Object(options)) => parse_fields(options, depth)?,
        _ => BTreeMap::new(),
    };
    match number {
        DATUM => return Ok(Term::Datum(datum::normalise(args.first().cloned().unwrap_or(Value::Null)))),
        MAKE_OBJECT => return Ok(Term::Object(options)),
        _ => {}
    }
    let op = Op::of(number).ok_or_else(|| unknown(number))?;
    if op == Op::Func {
        check_function(args)?;
    }
    let args: Result<Vec<Term>> =
        args.iter().enumerate().map(|(at, arg)| parse(arg, depth + 1).map_err(|why| why.at(at))).collect();
    let args = args?;
    check_arguments(op, args.len())?;
    if op != Op::OrderBy {
        for (at, arg) in args.iter().enumerate() {
            arg.check_order().map_err(|why| why.at(at))?;
        }
    }
    for name in options.keys() {
        if !op.options().contains(&name.as_str()) {
            let unknown = ReqlError::compile(format!("Unrecognized optional argument `{name}`."));
            return Err(unknown.within(Frame::Option(name.clone())));
        }
    }
    // A list of plain values is a plain value.
    if op == Op::MakeArray && args.iter().all(|arg| matches!(arg, Term::Datum(_))) {
        let plain = args.into_iter().filter_map(|arg| match arg {
            Term::Datum(value) => Some(value),
            _ => None,
        });
        return Ok(Term::Datum(Value::Array(plain.collect())));
    }
    Ok(Term::Call { op, args, options })
}

fn unknown(number: u64) -> ReqlError {
    // Numbers beyond the protocol's are refused as the server does, the rest is what we lack.
    const LAST: u64 = 200;
    if number == 0 || number > LAST {
        return ReqlError::compile(format!("Unrecognized TermType: {number}."));
    }
    ReqlError::compile(format!("the stand-in does not know term {number}"))
}

fn check_arguments(op: Op, found: usize) -> Result<()> {
    let (least, most) = op.arguments();
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let wanted = match (least, most) {
        (1, 1) => "1 argument".to_owned(),
        (least, most) if least == most => format!("{least} arguments"),
        (least, MANY) => format!("{least} or more arguments"),
        (least, most) => format!("between {least} and {most} arguments"),
    };
    Err(ReqlError::compile(format!("Expected {wanted} but found {found}.")))
}

/// `[69, [[2, [numbers]], body]]`
fn check_function(args: &[Value]) -> Result<()> {
    if args.len() != 2 {
        return Err(ReqlError::compile(format!("FUNC takes exactly two arguments (got {})", args.len())));
    }
    let numbers = match &args[0] {
        Value::Array(parts) if parts.first() == Some(&Value::from(2)) => {
            parts.get(1).and_then(Value::as_array)
        }
        _ => None,
    };
    match numbers {
        Some(numbers) if numbers.iter().all(Value::is_number) => Ok(()),
        Some(_) => {
            Err(ReqlError::compile("CLIENT ERROR: FUNC variables must be a literal array of *numbers*."))
        }
        None => Err(ReqlError::compile("CLIENT ERROR: FUNC variables must be a literal *array* of numbers.")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_values_stay_plain() {
        assert_eq!(
            Term::parse(&json!({"a": [2, [1, 2.0]], "b": null})).expect("parses"),
            Term::Datum(json!({"a": [1, 2], "b": null}))
        );
    }

    #[test]
    fn refusals_say_where_and_why() {
        let cases = [
            (json!([9998, []]), "Unrecognized TermType: 9998.", json!([])),
            (json!([17, [1]]), "Expected 2 or more arguments but found 1.", json!([])),
            (json!([15, [[14, ["d"]], "t"], {"x": 1}]), "Unrecognized optional argument `x`.", json!(["x"])),
            (json!([39, [[15, ["t"]], [97, []]]]), "the stand-in does not know term 97", json!([1])),
            (
                json!([69, [1, 2]]),
                "CLIENT ERROR: FUNC variables must be a literal *array* of numbers.",
                json!([]),
            ),
            (json!([[1]]), "Expected a TermType as a NUMBER but found ARRAY.", json!([])),
        ];
        for (query, message, trace) in cases {
            let response = Term::parse(&query).expect_err("must be refused").response();
            assert_eq!(response["t"], json!(17), "{query}");
            assert_eq!(response["r"], json!([message]), "{query}");
            assert_eq!(response["b"], trace, "{query}");
        }
    }

    #[test]
    fn deep_queries_are_refused_before_they_exhaust_the_stack() {
        let mut query = json!(1);
        for _ in 0..DEPTH_MAX + 2 {
            query = json!([23, [query]]);
        }
        assert!(Term::parse(&query).is_err());
    }
}
