/*
 * What the client of monitor_fuzz.c asks for: method, path, body. The machine that an input
 * describes is configured with these, too, by their numbers; make-monitor-seeds finds them by their
 * beginnings.
 */
#ifndef TESTS_FUZZ_MONITOR_REQUESTS_H
#define TESTS_FUZZ_MONITOR_REQUESTS_H

static const char *const requests[] = {
	"GET / ",
	"GET /version ",
	"GET /vm/config ",
	"GET /machine-config ",
	"PUT /boot-source {\"kernel_image_path\":\"kernel\"}",
	"PUT /boot-source {\"kernel_image_path\":\"kernel\",\"initrd_path\":\"initrd\",\"boot_args\":\"a=b\"}",
	"PUT /boot-source {\"kernel_image_path\":\"disk0\"}",
	"PUT /machine-config {\"vcpu_count\":1,\"mem_size_mib\":4}",
	"PUT /machine-config {\"vcpu_count\":4,\"mem_size_mib\":6}",
	"PUT /machine-config {\"vcpu_count\":4,\"mem_size_mib\":3600,\"smt\":true}",
	"PATCH /machine-config {\"track_dirty_pages\":true}",
	"PUT /drives/a {\"drive_id\":\"a\",\"path_on_host\":\"disk0\",\"is_root_device\":true}",
	"PUT /drives/a {\"drive_id\":\"a\",\"path_on_host\":\"disk0\",\"is_root_device\":false,"
	"\"io_engine\":\"Async\",\"cache_type\":\"Writeback\"}",
	"PUT /drives/b {\"drive_id\":\"b\",\"path_on_host\":\"disk1\",\"is_root_device\":false,"
	"\"is_read_only\":true}",
	"PUT /drives/c {\"drive_id\":\"c\",\"path_on_host\":\"huge\",\"is_root_device\":false,"
	"\"rate_limiter\":{\"bandwidth\":{\"size\":4096,\"refill_time\":100},"
	"\"ops\":{\"size\":3,\"one_time_burst\":5,\"refill_time\":1000}}}",
	"PATCH /drives/a {\"drive_id\":\"a\",\"path_on_host\":\"disk0\"}",
	"PATCH /drives/a {\"drive_id\":\"a\",\"path_on_host\":\"disk1\"}",
	"PATCH /drives/a {\"drive_id\":\"a\",\"path_on_host\":\"odd\"}",
	"PATCH /drives/a {\"drive_id\":\"a\",\"rate_limiter\":{\"ops\":{\"size\":1,\"refill_time\":50}}}",
	"PATCH /drives/a {\"drive_id\":\"a\",\"rate_limiter\":{\"ops\":{\"size\":0,\"refill_time\":0}}}",
	"PATCH /drives/b {\"drive_id\":\"b\",\"path_on_host\":\"huge\"}",
	"PUT /network-interfaces/n {\"iface_id\":\"n\",\"host_dev_name\":\"tap0\","
	"\"guest_mac\":\"06:00:00:00:00:01\"}",
	"PUT /network-interfaces/m {\"iface_id\":\"m\",\"host_dev_name\":\"tap1\",\"mtu\":9000,"
	"\"rx_rate_limiter\":{\"ops\":{\"size\":2,\"refill_time\":10}},"
	"\"tx_rate_limiter\":{\"bandwidth\":{\"size\":2000,\"refill_time\":10}}}",
	"PATCH /network-interfaces/n {\"iface_id\":\"n\",\"rx_rate_limiter\":{\"ops\":{\"size\":1,"
	"\"refill_time\":100}},\"tx_rate_limiter\":{\"ops\":{\"size\":1,\"refill_time\":100}}}",
	"PATCH /network-interfaces/n {\"iface_id\":\"n\",\"rx_rate_limiter\":{\"ops\":{\"size\":0,"
	"\"refill_time\":0}},\"tx_rate_limiter\":{\"ops\":{\"size\":0,\"refill_time\":0}}}",
	"PUT /serial {\"serial_out_path\":\"serial\"}",
	"PUT /serial {\"rate_limiter\":{\"size\":10,\"refill_time\":100}}",
	"PUT /logger {\"log_path\":\"log\",\"level\":\"Trace\",\"show_level\":true,"
	"\"show_log_origin\":true}",
	"PUT /logger {\"level\":\"Debug\",\"module\":\"m\"}",
	"PUT /metrics {\"metrics_path\":\"metrics\"}",
	"PUT /actions {\"action_type\":\"InstanceStart\"}",
	"PUT /actions {\"action_type\":\"SendCtrlAltDel\"}",
	"PUT /actions {\"action_type\":\"FlushMetrics\"}",
	"PATCH /vm {\"state\":\"Paused\"}",
	"PATCH /vm {\"state\":\"Resumed\"}",
	"PUT /vsock {}",
	"GET /metrics ",
	"PUT /snapshot/create {\"snapshot_path\":\"log\",\"mem_file_path\":\"serial\"}",
	"PUT /snapshot/load {\"snapshot_path\":\"disk0\",\"mem_backend\":{\"backend_type\":\"File\","
	"\"backend_path\":\"disk1\"}}",
	"PUT /snapshot/create {\"snapshot_path\":\"state\",\"mem_file_path\":\"memory\"}",
	"PUT /snapshot/create {\"snapshot_path\":\"state\",\"mem_file_path\":\"diff\","
	"\"snapshot_type\":\"Diff\"}",
	"PUT /snapshot/create {\"snapshot_path\":\"state\",\"mem_file_path\":\"./state\"}",
	"PUT /snapshot/load {\"snapshot_path\":\"state\",\"mem_file_path\":\"memory\"}",
	"PUT /snapshot/load {\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_type\":\"File\","
	"\"backend_path\":\"memory\"},\"resume_vm\":true,\"track_dirty_pages\":true,"
	"\"clock_realtime\":true,\"working_set_path\":\"pages\"}",
	"PUT /snapshot/load {\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_type\":\"File\","
	"\"backend_path\":\"memory\"},\"resume_vm\":true,\"huge_pages\":\"Transparent\","
	"\"drive_overrides\":[{\"drive_id\":\"a\",\"path_on_host\":\"disk1\"}],"
	"\"network_overrides\":[{\"iface_id\":\"n\",\"host_dev_name\":\"tap2\"}]}",
	"PUT /snapshot/load {\"snapshot_path\":\"state\",\"mem_backend\":{\"backend_type\":\"Uffd\","
	"\"backend_path\":\"missing\"}}",
	"PUT /snapshot/fork {\"api_socket_path\":\"second\",\"resume_vm\":true,"
	"\"log_path\":\"log\",\"metrics_path\":\"metrics\",\"serial_out_path\":\"serial\"}",
	"PUT /snapshot/fork {\"api_socket_path\":\"second\",\"id\":\"b\",\"drive_overrides\":"
	"[{\"drive_id\":\"a\",\"path_on_host\":\"disk1\"}]}",
};
#define REQUESTS (sizeof(requests) / sizeof(*requests))

#endif
