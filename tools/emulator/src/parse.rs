//! Tokens to a module: directives, declarations and scopes. What an instruction means is decided in `decode`.

use std::collections::{HashMap, HashSet};

use crate::decode::Decoder;
use crate::lexer::{Literal, LoadError, Place, Token, fail, literal, tokens};
use crate::program::{Kernel, Module, Param, Special, Variable};

/// Limits that keep a broken file from asking for all memory.
const MAX_VARIABLE_BYTES: u64 = 64 << 20;
const MAX_REGISTERS: u32 = 1 << 20;
const MAX_SHARED_BYTES: u64 = 48 << 10;
const MAX_LOCAL_BYTES: u64 = 512 << 10;
const MAX_PARAM_BYTES: u32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Pred,
    B16,
    B32,
    B64,
}

/// A declared register: its class, and its first row (or its predicate's number).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    pub class: Class,
    pub row: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    Register(Register),
    Variable(u32),
    Shared(u32),
    Local(u32),
    Param(u32),
}

/// An operand as written, with names resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    Register(Register),
    /// `!%p`.
    NotPred(Register),
    Special(Special),
    Literal(Literal),
    Symbol(Symbol),
    /// A name that is no register: a label, or something unknown.
    Name(&'a str),
    Vector(Vec<Operand<'a>>),
    Address(Box<Operand<'a>>, i64),
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Raw<'a> {
    pub line: u32,
    pub guard: Option<(Register, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
}

/// Parses and decodes a whole module.
pub fn module(text: &str) -> Result<Module, LoadError> {
    let places = tokens(text)?;
    let last_line = places.last().map_or(1, |p| p.line);
    let mut parser = Parser {
        places,
        next: 0,
        last_line,
        scopes: vec![HashMap::new()],
        specials: specials(),
        variables: Vec::new(),
        shared: Vec::new(),
    };
    let kernels = parser.module()?;
    Ok(Module { kernels, variables: parser.variables, lines: text.lines().map(str::to_string).collect() })
}

fn specials() -> HashMap<&'static str, Special> {
    HashMap::from([
        ("%tid.x", Special::Tid(0)),
        ("%tid.y", Special::Tid(1)),
        ("%tid.z", Special::Tid(2)),
        ("%ntid.x", Special::Ntid(0)),
        ("%ntid.y", Special::Ntid(1)),
        ("%ntid.z", Special::Ntid(2)),
        ("%ctaid.x", Special::Ctaid(0)),
        ("%ctaid.y", Special::Ctaid(1)),
        ("%ctaid.z", Special::Ctaid(2)),
        ("%nctaid.x", Special::Nctaid(0)),
        ("%nctaid.y", Special::Nctaid(1)),
        ("%nctaid.z", Special::Nctaid(2)),
        ("%laneid", Special::LaneId),
        ("%warpid", Special::WarpId),
        ("%nwarpid", Special::WarpCount),
        ("%lanemask_eq", Special::LaneMaskEq),
        ("%lanemask_le", Special::LaneMaskLe),
        ("%lanemask_lt", Special::LaneMaskLt),
        ("%lanemask_ge", Special::LaneMaskGe),
        ("%lanemask_gt", Special::LaneMaskGt),
    ])
}

/// Bytes of a fundamental type such as `.f32`.
fn type_bytes(word: &str) -> Option<u64> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

/// A declared variable, before it has a place.
struct Declared<'a> {
    name: &'a str,
    align: u64,
    size: u64,
    bytes: Vec<u8>,
}

struct Parser<'a> {
    places: Vec<Place<'a>>,
    next: usize,
    last_line: u32,
    /// Innermost last; the first is the module's.
    scopes: Vec<HashMap<String, Symbol>>,
    specials: HashMap<&'static str, Special>,
    variables: Vec<Variable>,
    /// Shared memory that is declared outside of kernels: each kernel that names it has its own.
    shared: Vec<Declared<'a>>,
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.places.get(self.next).map_or(self.last_line, |p| p.line)
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.places.get(self.next).map(|p| p.token)
    }

    fn take(&mut self) -> Result<Token<'a>, LoadError> {
        match self.peek() {
            Some(token) => {
                self.next += 1;
                Ok(token)
            }
            None => fail(self.last_line, "the module ends in the middle of a statement"),
        }
    }

    fn is_mark(&self, mark: u8) -> bool {
        self.peek() == Some(Token::Mark(mark))
    }

    /// Takes the mark where it comes next.
    fn has(&mut self, mark: u8) -> bool {
        let found = self.is_mark(mark);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: u8) -> Result<(), LoadError> {
        if self.has(mark) {
            return Ok(());
        }
        fail(self.line(), format!("expected '{}', found {}", mark as char, self.describe()))
    }

    fn describe(&self) -> String {
        match self.peek() {
            None => "the end".into(),
            Some(Token::Word(w) | Token::Number(w)) => format!("\"{w}\""),
            Some(Token::Text(_)) => "a string".into(),
            Some(Token::Mark(c)) => format!("'{}'", c as char),
        }
    }

    fn word(&mut self) -> Result<&'a str, LoadError> {
        let line = self.line();
        match self.take()? {
            Token::Word(word) => Ok(word),
            _ => fail(line, "expected a name"),
        }
    }

    fn count(&mut self) -> Result<u64, LoadError> {
        let line = self.line();
        if let Token::Number(text) = self.take()?
            && let Some(Literal::Int(value)) = literal(text, false)
            && let Ok(value) = u64::try_from(value)
        {
            return Ok(value);
        }
        fail(line, "expected a whole number")
    }

    fn skip_statement(&mut self) -> Result<(), LoadError> {
        while self.take()? != Token::Mark(b';') {}
        Ok(())
    }

    fn declare(&mut self, name: &str, symbol: Symbol, line: u32) -> Result<(), LoadError> {
        let scope = self.scopes.last_mut().ok_or(LoadError { line, what: "a scope ends twice".into() })?;
        if scope.insert(name.to_string(), symbol).is_some() {
            return fail(line, format!("\"{name}\" is declared twice"));
        }
        Ok(())
    }

    fn module(&mut self) -> Result<Vec<Kernel>, LoadError> {
        let mut kernels = Vec::new();
        let (mut version, mut target) = (false, false);
        while self.peek().is_some() {
            let line = self.line();
            let word = self.word()?;
            match word {
                ".version" => {
                    self.version()?;
                    version = true;
                }
                ".target" => {
                    self.target()?;
                    target = true;
                }
                ".address_size" => {
                    if self.count()? != 64 {
                        return fail(line, "only .address_size 64 is supported");
                    }
                }
                ".visible" | ".weak" => {}
                ".file" => {
                    // Debug information: number, name, and perhaps a time and a size.
                    while self.line() == line && self.peek().is_some() {
                        self.next += 1;
                    }
                }
                ".global" | ".const" => {
                    let declared = self.declaration(MAX_VARIABLE_BYTES)?;
                    let index = self.variables.len() as u32;
                    self.variables.push(Variable {
                        name: declared.name.into(),
                        constant: word == ".const",
                        bytes: declared.bytes,
                    });
                    self.declare(declared.name, Symbol::Variable(index), line)?;
                }
                ".entry" if !(version && target) => return fail(line, ".version and .target come before an .entry"),
                ".entry" => kernels.push(self.entry()?),
                ".func" => return fail(line, "\".func\" is not supported: let nvcc inline every device function"),
                ".extern" => return fail(line, "\".extern\" is not supported: no dynamic shared memory, no libraries"),
                ".shared" => {
                    let declared = self.declaration(MAX_SHARED_BYTES)?;
                    self.shared.push(declared);
                }
                _ => return fail(line, format!("unknown directive \"{word}\"")),
            }
        }
        if !(version && target) {
            return fail(1, "no .version and .target");
        }
        Ok(kernels)
    }

    fn version(&mut self) -> Result<(), LoadError> {
        let line = self.line();
        let text = match self.take()? {
            Token::Number(text) => text,
            _ => return fail(line, "expected a version"),
        };
        let parts = text.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
        match parts {
            Some((major, _)) if (7..=9).contains(&major) => Ok(()),
            Some(_) => fail(line, format!(".version {text} is not between 7.0 and 9.x")),
            None => fail(line, format!("{text} is no version")),
        }
    }

    fn target(&mut self) -> Result<(), LoadError> {
        let line = self.line();
        let target = self.word()?;
        if target != "sm_80" {
            return fail(line, format!(".target {target}: this device is an sm_80; compile with -arch=compute_80"));
        }
        if self.has(b',') {
            return fail(line, "options after .target are not supported");
        }
        Ok(())
    }

    /// After the state space: alignment, type, name, length, initial value.
    fn declaration(&mut self, limit: u64) -> Result<Declared<'a>, LoadError> {
        let line = self.line();
        let mut align = 0;
        let bytes = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.count()?,
                _ => match type_bytes(word) {
                    Some(bytes) => break bytes,
                    None => return fail(line, format!("\"{word}\" in a declaration is not supported")),
                },
            }
        };
        let name = self.word()?;
        let mut size = bytes;
        while self.has(b'[') {
            let length = if self.is_mark(b']') { 0 } else { self.count()? };
            self.expect(b']')?;
            size = size
                .checked_mul(length)
                .filter(|&s| s <= limit)
                .ok_or_else(|| LoadError { line, what: format!("\"{name}\" is larger than {limit} bytes") })?;
        }
        let align = align.max(bytes);
        if !align.is_power_of_two() || align > 256 {
            return fail(line, format!("an alignment of {align} is not supported"));
        }
        let mut data = vec![0; if limit == MAX_VARIABLE_BYTES { size as usize } else { 0 }];
        if self.has(b'=') {
            self.initial(&mut data, bytes as usize)?;
        }
        self.expect(b';')?;
        Ok(Declared { name, align, size, bytes: data })
    }

    fn initial(&mut self, data: &mut [u8], each: usize) -> Result<(), LoadError> {
        let braces = self.has(b'{');
        let mut at = 0;
        loop {
            let line = self.line();
            let value = match self.number()? {
                Literal::Int(value) => value as u64,
                Literal::F32(bits) => u64::from(bits),
                Literal::F64(bits) => bits,
            };
            let Some(place) = data.get_mut(at..at + each) else {
                return fail(line, "more initial values than elements");
            };
            place.copy_from_slice(&value.to_le_bytes()[..each]);
            at += each;
            if !(braces && self.has(b',')) {
                break;
            }
        }
        if braces { self.expect(b'}') } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Literal, LoadError> {
        let line = self.line();
        let negative = self.has(b'-');
        if let Token::Number(text) = self.take()?
            && let Some(value) = literal(text, negative)
        {
            return Ok(value);
        }
        fail(line, "expected a number")
    }

    fn entry(&mut self) -> Result<Kernel, LoadError> {
        let line = self.line();
        let mut kernel = Kernel { name: self.word()?.to_string(), ..Kernel::default() };
        self.scopes.truncate(1);
        self.scopes.push(HashMap::new());
        if self.has(b'(') {
            while !self.has(b')') {
                self.param(&mut kernel)?;
                self.has(b',');
            }
        }
        loop {
            match self.peek() {
                Some(Token::Word(".maxntid" | ".reqntid")) => {
                    self.next += 1;
                    kernel.maxntid = [1; 3];
                    for i in 0..3 {
                        kernel.maxntid[i] = u32::try_from(self.count()?).unwrap_or(u32::MAX);
                        if !self.has(b',') {
                            break;
                        }
                    }
                }
                Some(Token::Word(".minnctapersm" | ".maxnreg")) => {
                    self.next += 1;
                    self.count()?;
                }
                Some(Token::Mark(b'{')) => break,
                _ => return fail(self.line(), format!("{} before a kernel's body", self.describe())),
            }
        }
        self.expect(b'{')?;
        self.body(kernel, line)
    }

    fn param(&mut self, kernel: &mut Kernel) -> Result<(), LoadError> {
        let line = self.line();
        if self.word()? != ".param" {
            return fail(line, "expected .param");
        }
        let (mut align, mut bytes) = (0, 0);
        let name = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.count()?,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                _ if word.starts_with('.') => match type_bytes(word) {
                    Some(size) => bytes = size,
                    None => return fail(line, format!("parameters of type {word} are not supported")),
                },
                _ => break word,
            }
        };
        let align = if align == 0 { bytes } else { align };
        if self.has(b'[') {
            bytes = bytes.saturating_mul(self.count()?);
            self.expect(b']')?;
        }
        if bytes == 0 || bytes > u64::from(MAX_PARAM_BYTES) || !align.is_power_of_two() || align > 16 {
            return fail(line, format!("parameter \"{name}\" has an impossible size or alignment"));
        }
        let offset = kernel.param_bytes.next_multiple_of(align as u32);
        kernel.param_bytes = offset + bytes as u32;
        if kernel.param_bytes > MAX_PARAM_BYTES {
            return fail(line, format!("more than {MAX_PARAM_BYTES} bytes of parameters"));
        }
        kernel.params.push(Param { name: name.into(), offset, size: bytes as u32 });
        self.declare(name, Symbol::Param(offset), line)
    }

    fn body(&mut self, kernel: Kernel, line: u32) -> Result<Kernel, LoadError> {
        let mut decoder = Decoder::new(kernel);
        self.place_shared(&mut decoder, line)?;
        let depth = self.scopes.len();
        loop {
            let line = self.line();
            match self.take()? {
                Token::Mark(b'{') => self.scopes.push(HashMap::new()),
                Token::Mark(b'}') => {
                    self.scopes.pop();
                    if self.scopes.len() < depth {
                        break;
                    }
                }
                Token::Mark(b';') => {}
                Token::Mark(b'@') => {
                    let negate = self.has(b'!');
                    let name = self.word()?;
                    let guard = match self.resolve(name) {
                        Operand::Register(register) if register.class == Class::Pred => (register, negate),
                        _ => return fail(line, format!("the guard \"{name}\" is no predicate")),
                    };
                    let opcode = self.word()?;
                    self.instruction(&mut decoder, line, Some(guard), opcode)?;
                }
                Token::Word(word) if word.starts_with('.') => self.body_directive(&mut decoder, word, line)?,
                Token::Word(label) if self.has(b':') => self.label(&mut decoder, label, line)?,
                Token::Word(opcode) => self.instruction(&mut decoder, line, None, opcode)?,
                _ => return fail(line, "expected an instruction"),
            }
        }
        decoder.finish(line)
    }

    /// Gives a place to the module's shared memory that the body names. A body ends where its braces are closed.
    fn place_shared(&mut self, decoder: &mut Decoder, line: u32) -> Result<(), LoadError> {
        let mut depth = 1;
        let body = self.places[self.next..].iter().take_while(|p| {
            depth += i32::from(p.token == Token::Mark(b'{')) - i32::from(p.token == Token::Mark(b'}'));
            depth > 0
        });
        let words: HashSet<&str> =
            body.filter_map(|p| if let Token::Word(word) = p.token { Some(word) } else { None }).collect();
        let mut symbols = Vec::new();
        for declared in self.shared.iter().filter(|d| words.contains(d.name)) {
            let offset = place(&mut decoder.kernel.shared_bytes, declared, MAX_SHARED_BYTES, line)?;
            symbols.push((declared.name, Symbol::Shared(offset)));
        }
        symbols.into_iter().try_for_each(|(name, symbol)| self.declare(name, symbol, line))
    }

    fn label(&mut self, decoder: &mut Decoder, label: &str, line: u32) -> Result<(), LoadError> {
        if self.peek() != Some(Token::Word(".branchtargets")) {
            return decoder.label(label, line);
        }
        self.next += 1;
        let mut targets = Vec::new();
        loop {
            targets.push(self.word()?.to_string());
            if !self.has(b',') {
                break;
            }
        }
        self.expect(b';')?;
        decoder.branch_targets(label, targets, line)
    }

    fn body_directive(&mut self, decoder: &mut Decoder, word: &str, line: u32) -> Result<(), LoadError> {
        match word {
            ".reg" => self.registers(decoder, line),
            ".shared" => {
                let declared = self.declaration(MAX_SHARED_BYTES)?;
                let offset = place(&mut decoder.kernel.shared_bytes, &declared, MAX_SHARED_BYTES, line)?;
                self.declare(declared.name, Symbol::Shared(offset), line)
            }
            ".local" => {
                let declared = self.declaration(MAX_LOCAL_BYTES)?;
                let offset = place(&mut decoder.kernel.local_bytes, &declared, MAX_LOCAL_BYTES, line)?;
                self.declare(declared.name, Symbol::Local(offset), line)
            }
            ".pragma" => self.skip_statement(),
            ".loc" => {
                while self.line() == line && self.peek().is_some() {
                    self.next += 1;
                }
                Ok(())
            }
            _ => fail(line, format!("unknown directive \"{word}\" in a kernel")),
        }
    }

    /// `.reg .b32 %r<27>;` or `.reg .pred p, q;`.
    fn registers(&mut self, decoder: &mut Decoder, line: u32) -> Result<(), LoadError> {
        let kind = self.word()?;
        let class = match kind {
            ".pred" => Class::Pred,
            _ => match type_bytes(kind) {
                Some(1 | 2) => Class::B16,
                Some(4) => Class::B32,
                Some(8) => Class::B64,
                _ => return fail(line, format!("registers of type {kind} are not supported")),
            },
        };
        loop {
            let name = self.word()?;
            if self.has(b'<') {
                let count = self.count()?;
                self.expect(b'>')?;
                for i in 0..count {
                    self.register(decoder, &format!("{name}{i}"), class, line)?;
                }
            } else {
                self.register(decoder, name, class, line)?;
            }
            if !self.has(b',') {
                return self.expect(b';');
            }
        }
    }

    fn register(&mut self, decoder: &mut Decoder, name: &str, class: Class, line: u32) -> Result<(), LoadError> {
        let register = decoder.register(class);
        if register.row >= MAX_REGISTERS {
            return fail(line, format!("more than {MAX_REGISTERS} registers"));
        }
        self.declare(name, Symbol::Register(register), line)
    }

    fn instruction(
        &mut self,
        decoder: &mut Decoder,
        line: u32,
        guard: Option<(Register, bool)>,
        opcode: &'a str,
    ) -> Result<(), LoadError> {
        let mut operands = Vec::new();
        while !self.has(b';') {
            operands.push(self.operand()?);
            if !self.has(b',') && !self.is_mark(b';') {
                return fail(self.line(), format!("{} after an operand of {opcode}", self.describe()));
            }
        }
        decoder.instruction(&Raw { line, guard, opcode, operands })
    }

    fn operand(&mut self) -> Result<Operand<'a>, LoadError> {
        let first = self.simple()?;
        if !self.has(b'|') {
            return Ok(first);
        }
        Ok(Operand::Pair(Box::new(first), Box::new(self.simple()?)))
    }

    fn simple(&mut self) -> Result<Operand<'a>, LoadError> {
        let line = self.line();
        match self.peek() {
            Some(Token::Word(name)) => {
                self.next += 1;
                Ok(self.resolve(name))
            }
            Some(Token::Number(_) | Token::Mark(b'-')) => Ok(Operand::Literal(self.number()?)),
            Some(Token::Mark(b'!')) => {
                self.next += 1;
                let name = self.word()?;
                match self.resolve(name) {
                    Operand::Register(register) if register.class == Class::Pred => Ok(Operand::NotPred(register)),
                    _ => fail(line, format!("\"!{name}\": not a predicate")),
                }
            }
            Some(Token::Mark(b'{')) => {
                self.next += 1;
                let mut parts = Vec::new();
                while !self.has(b'}') {
                    parts.push(self.simple()?);
                    self.has(b',');
                }
                Ok(Operand::Vector(parts))
            }
            Some(Token::Mark(b'[')) => {
                self.next += 1;
                self.address()
            }
            _ => fail(line, format!("{} is no operand", self.describe())),
        }
    }

    fn address(&mut self) -> Result<Operand<'a>, LoadError> {
        let line = self.line();
        let base = self.simple()?;
        let mut offset = 0;
        if self.has(b'+') || self.is_mark(b'-') {
            match self.number()? {
                Literal::Int(value) if i32::try_from(value).is_ok() => offset = value as i64,
                _ => return fail(line, "the offset of an address is out of range"),
            }
        }
        self.expect(b']')?;
        Ok(Operand::Address(Box::new(base), offset))
    }

    fn resolve(&self, name: &'a str) -> Operand<'a> {
        for scope in self.scopes.iter().rev() {
            match scope.get(name) {
                Some(Symbol::Register(register)) => return Operand::Register(*register),
                Some(&symbol) => return Operand::Symbol(symbol),
                None => {}
            }
        }
        match self.specials.get(name) {
            Some(&special) => Operand::Special(special),
            None => Operand::Name(name),
        }
    }
}

/// Puts a variable behind those before it; its offset.
fn place(used: &mut u32, declared: &Declared, limit: u64, line: u32) -> Result<u32, LoadError> {
    let offset = u64::from(*used).next_multiple_of(declared.align);
    let end = offset + declared.size;
    if declared.size == 0 {
        return fail(line, format!("\"{}\" has no size: dynamic shared memory is not supported", declared.name));
    }
    if end > limit {
        return fail(line, format!("with \"{}\" a kernel has {end} bytes, more than {limit}", declared.name));
    }
    *used = end as u32;
    Ok(offset as u32)
}
