"""Reading finished and running work: results, policies, statistics, pictures, exports."""
