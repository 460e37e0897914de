'use strict';
// node-postgres again: leaks whose line is harder to tell. Each function is the one that a report
// must name; the marked line is where.

const path = require('node:path');
const { Worker } = require('node:worker_threads');
const Pool = require('pg-pool');
const { pace, sleep, versions } = require('./loop');
const healthy = require('./healthy');
const { läckt } = require('./größe/läck');

// Calls itself on its way to the query.
function descend(client, levels) {
  if (levels > 0) return descend(client, levels - 1);
  return client.query('select $1::int', [levels]); // LEAK-LINE recursive
}

async function recursive(pool) {
  const client = await pool.connect();
  return descend(client, 23);
}

// Called so often before that V8 compiles it, and what calls it.
class Orders {
  constructor(pool) {
    this.pool = pool;
  }

  async load(id, keep) {
    const client = await this.pool.connect();
    const { rows } = await this.read(client, id);
    if (!keep) client.release();
    return rows[0];
  }

  read(client, id) {
    const text = 'select $1::int as id';
    return this.send(client, text, [id]);
  }

  send(client, text, values) {
    return client.query(text, values); // LEAK-LINE hot
  }
}

// Functions that are made anew for each request, and are gone before anyone looks.
async function closures(pool) {
  const client = await pool.connect();
  const ask = (text) => {
    const now = () => client.query(text); // LEAK-LINE closures
    return now();
  };
  return ask('select 3');
}

// Two at the same time.
async function first(pool) {
  const client = await pool.connect();
  return client.query('select 1'); // LEAK-LINE first
}

async function second(pool) {
  const client = await pool.connect();
  return client.query('select 2'); // LEAK-LINE second
}

function inWorker(file) {
  let worker;
  return (task) =>
    new Promise((resolve, reject) => {
      worker ??= new Worker(file);
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.postMessage(task);
    });
}

module.exports = (given) => {
  const pool = new Pool({ max: 60, ...given });
  const orders = new Orders(pool);
  const worker = inWorker(path.join(__dirname, 'worker.js'));
  let collect;

  return {
    versions: versions('pg'),
    healthy: () => healthy.tryFinally(pool),
    leaks: {
      recursive: () => recursive(pool),
      hot: () => orders.load(1, true),
      closures: () => closures(pool),
      named: () => läckt(pool),
      module: async () => (await import('./module.mjs')).leakedByModule(pool),
      first: () => first(pool),
      both: () => Promise.all([first(pool), second(pool)]),
      worker: () => worker('leak'),
    },
    rounds: {
      hot: () => orders.load(1, false),
      worker: () => worker('healthy'),
    },
    commands: {
      // Without a pause, until V8 has compiled what is called.
      warm: async (count) => {
        for (let i = 0; i < Number(count); i += 1) await orders.load(i, false);
      },
      // Leaks beside requests that come and go without a pause. Half a second after the last leak
      // everything in memory is moved; later more requests come at once than there are connections.
      moved: async (count, requests) => {
        let busy = true;
        const request = async () => {
          while (busy) await orders.load(1, false);
        };
        const load = Array.from({ length: Number(requests) }, request);
        await pace();
        for (let i = 0; i < Number(count); i += 1) await first(pool);
        await sleep(500);
        const v8 = require('node:v8');
        v8.setFlagsFromString('--expose-gc');
        v8.setFlagsFromString('--compact-on-every-full-gc');
        require('node:vm').runInNewContext('gc')();
        busy = false;
        await Promise.all(load);
        await sleep(1000);
        await Promise.all(Array.from({ length: load.length + 15 }, () => orders.load(1, false)));
      },
      // So many collections: what is young moves, what is old is compacted.
      collect: async (count) => {
        if (!collect) {
          require('node:v8').setFlagsFromString('--expose-gc');
          collect = require('node:vm').runInNewContext('gc');
        }
        for (let i = 0; i < Number(count); i += 1) {
          collect();
          await pace();
        }
      },
    },
  };
};
