"""What runs inside Airflow; beside `dags/` the only place that knows Airflow."""
