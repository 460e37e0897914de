'use strict';
// The orders service. In place of an HTTP server it makes its own requests, about thirty a second,
// so that the demo needs nothing but a database. Takes its server from the PG* variables; prints
// `ready PID` when it serves; ends at SIGTERM.

const Pool = require('pg-pool');
const handlers = require('./handlers');

const USERS = 50;
const REQUEST_EVERY_MS = 35;
// One request in this many asks for a user that does not exist.
const UNKNOWN_EVERY = 25;
// Then the unknown users stop, before the pool has none left: for some half a minute, because the watching may
// begin late on a busy machine.
const UNKNOWN_AT_MOST = 27;

const pool = new Pool({ max: 30, application_name: 'orders' });
pool.on('error', (error) => console.error(`orders: idle connection: ${error.message}`));

async function prepare() {
  await pool.query(`
    create table if not exists users (id int primary key, name text, orders int not null default 0);
    create table if not exists orders (id serial primary key, user_id int, total numeric);
    insert into users select g, 'user ' || g from generate_series(1, ${USERS}) g on conflict do nothing;
  `);
}

let requests = 0;
let unknown = 0;

function nextRequest() {
  requests += 1;
  const user = 1 + (requests % USERS);
  if (requests % UNKNOWN_EVERY === 0 && unknown < UNKNOWN_AT_MOST) {
    unknown += 1;
    return handlers.getUser(pool, 100000 + unknown);
  }
  switch (requests % 4) {
    case 0:
      return handlers.getUser(pool, user);
    case 1:
      return handlers.listOrders(pool, user);
    case 2:
      return handlers.placeOrder(pool, user, requests);
    default:
      return handlers.health(pool);
  }
}

async function main() {
  await prepare();
  console.log(`ready ${process.pid}`);
  setInterval(() => {
    nextRequest().catch((error) => console.error(`orders: ${error.message}`));
  }, REQUEST_EVERY_MS);
}

main().catch((error) => {
  console.error(`orders: ${error.message}`);
  process.exit(1);
});
