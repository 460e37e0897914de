'use strict';
// Opt-in help for connleak: marks the checkouts of pg-pool, so that they are observed and the report
// names the line that asked for the client, however late and from whatever callback it was used.
//
//     node --require ./connleak-node.js app.js        or NODE_OPTIONS='--require /path/connleak-node.js'
//
// A mark is a read of no bytes from the client's socket: the kernel answers it without looking at the
// socket, so nothing is sent, taken or changed, with connleak or without. What pg-pool does stays as it
// is; a failure of anything here is swallowed and costs the mark. The other end is
// `tracer-ebpf/src/mark.rs`.

const Module = require('module');
const { readvSync } = require('fs');

const MAGIC = 'connleak.mark/1 ';
// pg-pool's.
const TAKEN = 'a';
const RETURNED = '-';
// Of a mark, with the NUL at its end.
const MAX_BYTES = MAGIC.length + 1 + 1024;
// Calls looked at, and of those in packages the innermost that are told.
const MAX_FRAMES = 20;
const MAX_LIBRARY_FRAMES = 3;
const WRAPPED = Symbol.for('connleak.mark/1');

// Outside of V8's heap, where its bytes stay in one place.
const mark = Buffer.allocUnsafeSlow(MAX_BYTES);
mark.write(MAGIC);
const nothing = [mark.subarray(0, 0)];

/** Says what happened to a client's connection; false where it has no socket that is known. */
function say(client, what, text) {
  const { fd } = client.connection.stream._handle;
  if (!(fd >= 0)) return false;
  const end = mark.write(what + text, MAGIC.length, MAX_BYTES - MAGIC.length - 1);
  mark[MAGIC.length + end] = 0;
  readvSync(fd, nothing);
  return true;
}

/** The calls that led to `callee`, innermost first, without Node's own. */
function callers(callee) {
  const here = {};
  const before = Object.getOwnPropertyDescriptor(Error, 'prepareStackTrace');
  const limit = Error.stackTraceLimit;
  let sites;
  try {
    Error.stackTraceLimit = MAX_FRAMES;
    Error.prepareStackTrace = (_, structured) => structured;
    Error.captureStackTrace(here, callee);
    sites = here.stack;
  } finally {
    Error.stackTraceLimit = limit;
    if (before) Object.defineProperty(Error, 'prepareStackTrace', before);
    else delete Error.prepareStackTrace;
  }
  const clean = (name) => name.replace(/[\t\n\0]/g, ' ');
  let libraries = 0;
  let text = '';
  for (const site of sites) {
    const file = site.getFileName();
    if (!file || file.startsWith('node:')) continue;
    if (/[\\/]node_modules[\\/]/.test(file) && ++libraries > MAX_LIBRARY_FRAMES) continue;
    const place = `${site.getLineNumber() || 0}\t${site.getColumnNumber() || 0}`;
    text += `${clean(site.getFunctionName() || '')}\t${clean(file)}\t${place}\n`;
  }
  return text;
}

/** The pool gives a client out: its release is marked as well, and returned for those who have it apart. */
function taken(client, frames, done) {
  try {
    // The pool sets it anew for each checkout.
    const { release } = client;
    if (typeof release !== 'function' || !say(client, TAKEN, frames)) return done;
    let returned = false;
    const marked = (back) =>
      function () {
        try {
          // Before it is given to whoever waits; a second call is an error of the pool's to throw.
          if (!returned) say(client, RETURNED, '');
        } catch {}
        returned = true;
        return back.apply(this, arguments);
      };
    client.release = marked(release);
    if (done === release) return client.release;
    return typeof done === 'function' ? marked(done) : done;
  } catch {
    return done;
  }
}

function wrap(Pool) {
  const prototype = Pool && Pool.prototype;
  const own = prototype && Object.getOwnPropertyDescriptor(prototype, 'connect');
  if (!own || typeof own.value !== 'function' || prototype[WRAPPED]) return;
  const inner = own.value;
  function connect(callback) {
    let frames = '';
    try {
      frames = callers(connect);
    } catch {}
    if (typeof callback === 'function') {
      const rest = Array.prototype.slice.call(arguments, 1);
      const given = function (error, client, done) {
        if (!error && client) done = taken(client, frames, done);
        return callback.call(this, error, client, done);
      };
      return inner.call(this, given, ...rest);
    }
    const promise = inner.apply(this, arguments);
    if (!promise || typeof promise.then !== 'function') return promise;
    // Whoever gets this one handles its failure, as before.
    return promise.then((client) => {
      if (client) taken(client, frames);
      return client;
    });
  }
  Object.defineProperty(prototype, 'connect', { ...own, value: connect });
  Object.defineProperty(prototype, WRAPPED, { value: true });
}

const load = Module._load;
Module._load = function (request) {
  const loaded = load.apply(this, arguments);
  try {
    // By its name, or by its path as `import` resolves it.
    if (/(^|[\\/])pg-pool([\\/]index\.js)?$/.test(request)) wrap(loaded);
  } catch {}
  return loaded;
};
