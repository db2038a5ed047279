package engine

import "github.com/runink/runink/sdk"

// StageOf implements Stage for rows of two Go types. Make is called once for each worker;
// its function handles one batch.
type StageOf[In, Out any] struct {
	From *RowType[In]
	To   *RowType[Out]
	Make func() func(in *sdk.Batch[In], out *sdk.Batch[Out]) error
}

// In implements Step.
func (s *StageOf[In, Out]) In() Type { return s.From }

// Out implements Step.
func (s *StageOf[In, Out]) Out() Type { return s.To }

// Runner implements Stage.
func (s *StageOf[In, Out]) Runner() Runner { return runnerFunc[In, Out](s.Make()) }

type runnerFunc[In, Out any] func(in *sdk.Batch[In], out *sdk.Batch[Out]) error

func (f runnerFunc[In, Out]) Run(in, out Batch) error {
	return f(in.(*sdk.Batch[In]), out.(*sdk.Batch[Out]))
}

// Map makes the stage of a step that turns each row into one row. fn gets a zeroed Out;
// its error rejects the row.
func Map[In, Out any](from *RowType[In], to *RowType[Out], fn func(*In, *Out) error) Stage {
	return MapWith(from, to, func() func(*In, *Out) error { return fn })
}

// MapWith is Map with a function made for each worker.
func MapWith[In, Out any](from *RowType[In], to *RowType[Out], make func() func(*In, *Out) error) Stage {
	return &StageOf[In, Out]{From: from, To: to, Make: func() func(*sdk.Batch[In], *sdk.Batch[Out]) error {
		fn := make()
		return func(in *sdk.Batch[In], out *sdk.Batch[Out]) error {
			for i := range in.Rows {
				o := in.Origins[i]
				if err := fn(&in.Rows[i], out.Append(o)); err != nil {
					out.DropLast()
					out.Rejects = append(out.Rejects, sdk.RejectOf(o, err))
				}
			}
			return nil
		}
	}}
}

// Filter makes the stage of a step that keeps the rows for which a predicate holds. An
// error rejects the row.
func Filter[T any](typ *RowType[T], make func() func(*T) (bool, error)) Stage {
	return FilterTo(typ, typ, make)
}

// FilterTo is Filter where the output has another schema with the same fields.
func FilterTo[T any](typ, to *RowType[T], make func() func(*T) (bool, error)) Stage {
	return &StageOf[T, T]{From: typ, To: to, Make: func() func(*sdk.Batch[T], *sdk.Batch[T]) error {
		pred := make()
		return func(in, out *sdk.Batch[T]) error {
			for i := range in.Rows {
				ok, err := pred(&in.Rows[i])
				switch {
				case err != nil:
					out.Rejects = append(out.Rejects, sdk.RejectOf(in.Origins[i], err))
				case ok:
					out.Rows = append(out.Rows, in.Rows[i])
					out.Origins = append(out.Origins, in.Origins[i])
				}
			}
			return nil
		}
	}}
}

// FlatMap makes the stage of a step that turns each row into any number of rows. Where
// it returns an error, the rows it emitted for that input are taken back.
func FlatMap[In, Out any](from *RowType[In], to *RowType[Out], fn func(In, func(Out)) error) Stage {
	return &StageOf[In, Out]{From: from, To: to, Make: func() func(*sdk.Batch[In], *sdk.Batch[Out]) error {
		return func(in *sdk.Batch[In], out *sdk.Batch[Out]) error {
			for i := range in.Rows {
				o, at := in.Origins[i], len(out.Rows)
				err := fn(in.Rows[i], func(row Out) { *out.Append(o) = row })
				if err != nil {
					out.Rows, out.Origins = out.Rows[:at], out.Origins[:at]
					out.Rejects = append(out.Rejects, sdk.RejectOf(o, err))
				}
			}
			return nil
		}
	}}
}
