// A known chain of calls that ends in a stop: handle > Repository.loadUser > hold > kill.
// Prints the id of the thread it stops in.
const fs = require('fs');

function hold() {
  fs.writeSync(1, process.pid + '\n');
  process.kill(process.pid, 'SIGSTOP');
}

class Repository {
  async loadUser(id) {
    await null;
    hold();
    return id;
  }
}

async function handle() {
  await new Repository().loadUser(7);
}

handle();
