//! The words to describe one call with: what it takes, what it answers, and why it refuses.

use jam_domain::Code;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

/// Gives the schema of a type; what it refers to becomes a component of the document.
pub type Shape = fn(&mut SchemaGenerator) -> Schema;

/// The shape of a type.
pub fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What a call takes and answers, beyond what follows from its row in the table of actions.
pub struct Call {
    /// The chapter it belongs to.
    pub tag: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What a caller has to know, in sentences.
    pub description: &'static str,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// The shape of its JSON body.
    pub body: Option<Shape>,
    /// What it answers when all is well.
    pub answers: Vec<Answer>,
    /// The refusals of its own, and what each means here.
    pub refusals: Vec<(Code, &'static str)>,
}

impl Call {
    /// A call that is described by these words.
    pub fn new(tag: &'static str, summary: &'static str, description: &'static str) -> Self {
        Self { tag, summary, description, parameters: vec![], body: None, answers: vec![], refusals: vec![] }
    }

    /// The same call with a parameter more.
    pub fn takes(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// The same call with parameters more.
    pub fn takes_all(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// The same call with a JSON body of this type.
    pub fn reads<T: JsonSchema>(mut self) -> Self {
        self.body = Some(shape::<T>);
        self
    }

    /// The same call with an answer more.
    pub fn answers(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    /// The same call with a refusal more.
    pub fn refuses(mut self, code: Code, when: &'static str) -> Self {
        self.refusals.push((code, when));
        self
    }
}

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// In a header.
    Header,
}

impl Place {
    /// The word of OpenAPI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

/// One parameter.
pub struct Parameter {
    name: &'static str,
    place: Place,
    description: &'static str,
    schema: Value,
}

impl Parameter {
    /// A parameter of the path.
    pub fn path(name: &'static str, description: &'static str, schema: Value) -> Self {
        Self { name, place: Place::Path, description, schema }
    }

    /// A parameter of the query; left out or empty is the same.
    pub fn query(name: &'static str, description: &'static str, schema: Value) -> Self {
        Self { name, place: Place::Query, description, schema }
    }

    /// A header.
    pub fn header(name: &'static str, description: &'static str, schema: Value) -> Self {
        Self { name, place: Place::Header, description, schema }
    }

    /// A yes or no of the query.
    pub fn flag(name: &'static str, description: &'static str) -> Self {
        Self::query(name, description, json!({"type": "boolean", "default": false}))
    }

    /// The parameter in the document.
    pub fn written(&self) -> Value {
        let Self { name, place, description, schema } = self;
        let mut written = json!({"name": name, "in": place.as_str(), "description": description, "schema": schema});
        match place {
            Place::Path => written["required"] = true.into(),
            Place::Query => written["allowEmptyValue"] = true.into(),
            Place::Header => {}
        }
        written
    }
}

/// What an answer carries.
pub enum Content {
    /// Nothing.
    Empty,
    /// JSON of this shape.
    Json(Shape),
    /// One of two shapes of JSON.
    Either(Shape, Shape),
    /// Bytes of any kind.
    Bytes,
    /// Server-sent events.
    Events,
    /// Something else of this media type.
    Other(&'static str),
}

/// One answer of a call.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What it means here.
    pub description: &'static str,
    /// The headers it carries: name, what it says, its schema.
    pub headers: Vec<(&'static str, &'static str, Value)>,
    /// What it carries.
    pub content: Content,
}

impl Answer {
    /// An answer without a body.
    pub fn empty(status: u16, description: &'static str) -> Self {
        Self { status, description, headers: vec![], content: Content::Empty }
    }

    /// A JSON answer.
    pub fn json<T: JsonSchema>(status: u16, description: &'static str) -> Self {
        Self { content: Content::Json(shape::<T>), ..Self::empty(status, description) }
    }

    /// An answer with this content.
    pub fn with(status: u16, description: &'static str, content: Content) -> Self {
        Self { content, ..Self::empty(status, description) }
    }

    /// The same answer with a header more.
    pub fn header(mut self, name: &'static str, description: &'static str, schema: Value) -> Self {
        self.headers.push((name, description, schema));
        self
    }
}

/// The header that says when it makes sense to ask again: name, description, schema.
pub fn retry_after() -> (&'static str, &'static str, Value) {
    ("Retry-After", "Whole seconds, at least 1.", json!({"type": "integer", "minimum": 1}))
}
