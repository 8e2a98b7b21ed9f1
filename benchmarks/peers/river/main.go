// River does the work of the "no broker" contest: an order and its job in one transaction, and a
// worker that claims and charges. The harness talks to it by stdin and stdout; see ../driver.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	orderBytes     = 200
	duplicateEvery = 20
	producers      = 8
)

// One statement, as the other peers: the inbox row is the guard, the charge is the effect.
const claimAndCharge = `
	WITH claimed AS (
		INSERT INTO onceproof.inbox (consumer, event_id) VALUES ('payments', $1)
		ON CONFLICT DO NOTHING RETURNING event_id)
	INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
	SELECT $2, event_id, $3, $4, event_id, 1 FROM claimed`

// For the negative control only: no guard, so a duplicate is charged twice.
const chargeOnly = `
	INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
	VALUES ($2, $1, $3, $4, $1, 1)`

type order struct {
	OrderID  string `json:"order_id"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Note     string `json:"note"`
}

type chargeArgs struct {
	EventID string `json:"event_id"`
	Order   order  `json:"order"`
}

func (chargeArgs) Kind() string { return "charge" }

type chargeWorker struct {
	river.WorkerDefaults[chargeArgs]
	pool      *pgxpool.Pool
	statement string
}

func (w *chargeWorker) Work(ctx context.Context, job *river.Job[chargeArgs]) error {
	o := job.Args.Order
	_, err := w.pool.Exec(ctx, w.statement, job.Args.EventID, o.OrderID, o.Amount, o.Currency)
	return err
}

func newOrder(number int) chargeArgs {
	o := order{OrderID: fmt.Sprintf("o-%012d", number), Amount: 1999, Currency: "EUR"}
	bare, _ := json.Marshal(o)
	o.Note = strings.Repeat("x", orderBytes-len(bare))
	return chargeArgs{EventID: fmt.Sprintf("01930000-0000-7000-8000-%012d", number), Order: o}
}

func setUp(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func work(ctx context.Context, pool *pgxpool.Pool, tuned, broken bool) error {
	statement := claimAndCharge
	if broken {
		statement = chargeOnly
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &chargeWorker{pool: pool, statement: statement})
	config := &river.Config{
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
		Workers: workers,
	}
	if tuned {
		// The settings of River's own benchmark command, with fewer workers for fewer cores.
		config.FetchCooldown = 2 * time.Millisecond
		config.FetchPollInterval = 20 * time.Millisecond
		config.Queues[river.QueueDefault] = river.QueueConfig{MaxWorkers: 500}
	}
	client, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	stopCtx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return client.Stop(stopCtx)
}

func enqueueOne(ctx context.Context, pool *pgxpool.Pool, client *river.Client[pgx.Tx], number int) error {
	args := newOrder(number)
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx,
			"INSERT INTO orders (order_id, amount, currency, event_id) VALUES ($1, $2, $3, $4)",
			args.Order.OrderID, args.Order.Amount, args.Order.Currency, args.EventID)
		if err != nil {
			return err
		}
		if _, err := client.InsertTx(ctx, tx, args, nil); err != nil {
			return err
		}
		if number%duplicateEvery == 0 {
			_, err = client.InsertTx(ctx, tx, args, nil)
		}
		return err
	})
}

func enqueue(ctx context.Context, pool *pgxpool.Pool, orders int) error {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err = bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	numbers := make(chan int)
	failures := make(chan error, producers)
	var group sync.WaitGroup
	for range producers {
		group.Go(func() {
			for number := range numbers {
				if err := enqueueOne(ctx, pool, client, number); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	for number := range orders {
		select {
		case numbers <- number:
		case err := <-failures:
			return err
		}
	}
	close(numbers)
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
	}
	fmt.Println("done")
	// Until the harness closes stdin, so that our CPU time can still be read.
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func run() error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	config, err := pgxpool.ParseConfig(os.Getenv("BENCH_DSN"))
	if err != nil {
		return err
	}
	tuned := os.Getenv("BENCH_TUNED") == "1"
	config.MaxConns = 16
	if len(os.Args) > 1 && os.Args[1] == "enqueue" {
		config.MaxConns = producers
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	switch os.Args[1] {
	case "setup":
		return setUp(ctx, pool)
	case "enqueue":
		orders, err := strconv.Atoi(os.Getenv("BENCH_ORDERS"))
		if err != nil {
			return err
		}
		return enqueue(ctx, pool, orders)
	case "work":
		// The harness closes stdin when it is done with us, however it ends.
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		return work(ctx, pool, tuned, os.Getenv("BENCH_BROKEN") == "1")
	}
	return fmt.Errorf("setup, enqueue or work, not %q", os.Args[1])
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
