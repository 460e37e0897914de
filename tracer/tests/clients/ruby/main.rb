# frozen_string_literal: true

# A client on Ruby's pg that does what it is told, line by line: see ../README.md.

require 'connection_pool'
require 'pg'
require 'timeout'
require_relative 'healthy'
require_relative 'leaks'

# Requests of one user come at a pace; without it no connection would ever sit.
PACE_SECONDS = 0.1
# ... and come back after a while.
LATER_SECONDS = 1.2

# The one that listens, locks or copies, and the threads with theirs.
@kept = []

def pool
  @pool ||= ConnectionPool.new(size: 60) { PG.connect }
end

def repeat(count)
  Integer(count).times do
    yield
    sleep PACE_SECONDS
  end
end

# A request has a fiber of its own, as in servers that serve many with one thread; the pool knows
# by it who asks.
def request(&work)
  Fiber.new(&work).resume
end

# So many at the same time, all given back.
def burst(count)
  fibers = Array.new(count) do
    Fiber.new do
      pool.with do |connection|
        connection.exec('select 1')
        Fiber.yield
      end
    end
  end
  2.times { fibers.each(&:resume) }
end

def leak(shape)
  case shape
  when 'forgotten' then request { Leaks.forgotten_checkin(pool) }
  when 'early_return'
    request { Leaks.early_return(pool, 1) }
    sleep PACE_SECONDS
    request { Leaks.early_return(pool, 1000) }
  when 'raise'
    request { Leaks.raised_before_checkin(pool, '42') }
    sleep PACE_SECONDS
    begin
      request { Leaks.raised_before_checkin(pool, 'forty-two') }
      raise 'the broken number was parsed'
    rescue ArgumentError
      # Nobody gives the connection back.
    end
  when 'timeout'
    call = Queue.new << 'answer'
    request { Leaks.timed_out(pool, 10, call) }
    sleep PACE_SECONDS
    begin
      request { Leaks.timed_out(pool, PACE_SECONDS, call) }
      raise 'the call was answered'
    rescue Timeout::Error
      # Nobody gives the connection back.
    end
  when 'transaction' then request { Leaks.transaction_not_ended(pool) }
  when 'rows' then request { Leaks.rows_not_read(pool) }
  when 'never_used' then request { Leaks.never_used(pool) }
  else raise ArgumentError, "no shape #{shape}"
  end
end

def carry_out(verb, *words)
  case verb
  # A healthy request follows, finds the pool empty and opens a connection.
  when 'leak'
    repeat(words[1]) do
      leak(words[0])
      sleep PACE_SECONDS
      request { Healthy.with_block(pool) }
    end
  # Only leaks: nothing gives a connection back.
  when 'leak_alone' then repeat(words[1]) { leak(words[0]) }
  when 'later' then sleep LATER_SECONDS
  when 'healthy' then repeat(words[0]) { request { Healthy.with_block(pool) } }
  when 'transaction' then repeat(words[0]) { request { Healthy.transaction(pool) } }
  when 'single_rows' then repeat(words[0]) { request { Healthy.single_rows(pool) } }
  when 'burst' then burst(Integer(words[0]))
  when 'overlap'
    sleep LATER_SECONDS
    burst(Integer(words[0]))
  # One connection for each thread, used once, then calm.
  when 'threads'
    used = Queue.new
    Integer(words[0]).times do
      @kept << Thread.new do
        connection = PG.connect
        connection.exec('select 1')
        used << connection
        Thread.stop
      end
    end
    Integer(words[0]).times { used.pop }
  when 'reset' then repeat(words[0]) { pool.with { |connection| connection.reset } }
  when 'listen', 'copy'
    @kept << PG.connect
    verb == 'listen' ? Healthy.listen(@kept.last) : Healthy.copy_in(@kept.last)
  when 'advisory_lock', 'hold_query'
    @kept << PG.connect
    work = verb == 'hold_query' ? :long_query : :advisory_lock
    Healthy.public_send(work, @kept.last, Integer(words[0]))
  else raise ArgumentError, "no command #{verb}"
  end
end

# Whenever it came by, the collector would close what is lost, and the pool's place stays lost.
GC.disable
$stdout.sync = true
libpq = PG.library_version
puts "ready #{Process.pid} pg #{PG::VERSION}, connection_pool #{ConnectionPool::VERSION}, " \
     "Ruby #{RUBY_VERSION}, libpq #{libpq / 10_000}.#{libpq % 10_000}"
$stdin.each_line(chomp: true) do |line|
  break if line == 'quit'

  begin
    carry_out(*line.split)
    puts "done #{line}"
  rescue StandardError => e
    puts "error #{e.message}"
  end
end
