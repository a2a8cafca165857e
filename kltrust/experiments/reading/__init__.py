"""Reading what was run: results, trained policies, evaluation, statistics, pictures, exports."""
