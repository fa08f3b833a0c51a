/* Network interfaces in the configuration, src/config_check.c: names and addresses. */
#include <criterion/criterion.h>
#include <string.h>

#include "mayfly/config.h"

static int check(const char *id, const char *device, const char *mac, uint64_t mtu,
		 struct error *err)
{
	struct network_interface_config interface = { .iface_id = strdup(id),
						      .host_dev_name =
							      device ? strdup(device) : NULL,
						      .guest_mac = mac ? strdup(mac) : NULL,
						      .mtu = mtu };
	int result = config_network_interface_check(&interface, err);

	config_clear(&config_network_interface_object, &interface);
	return result;
}

Test(config_interface, id_device_and_mtu_are_checked)
{
	struct error err;

	cr_assert_eq(check("eth0", "tap0", NULL, 0, &err), 0);
	cr_assert_eq(check("eth0", "tap0", NULL, 68, &err), 0);
	cr_assert_eq(check("eth0", "tap0", NULL, 65535, &err), 0);
	cr_assert_eq(check("", "tap0", NULL, 0, &err), -EINVAL);
	cr_assert_eq(check("eth0", NULL, NULL, 0, &err), -EINVAL);
	for (const uint64_t *mtu = (const uint64_t[]) { 67, 65536, 1ULL << 32, 0 }; *mtu; mtu++) {
		cr_assert_eq(check("eth0", "tap0", NULL, *mtu, &err), -ERANGE);
		cr_assert(strstr(err.message, "network interface eth0: The value of `mtu` is "),
			  "%s", err.message);
	}
}

Test(config_interface, device_has_a_name_that_the_kernel_takes)
{
	static const char *const good[] = { "t", "tap-0.1_x", "123456789012345", "t\xc3\xa4p" };
	static const char *const bad[] = { "",	  ".",	   "..", "1234567890123456", "a/b", "a b",
					   "a:1", "tap%d", "a\n" };
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		cr_assert_eq(check("eth0", good[i], NULL, 0, &err), 0, "%s", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_eq(check("eth0", bad[i], NULL, 0, &err), -EINVAL, "%s", bad[i]);
		cr_assert(strstr(err.message, "network interface eth0: host_dev_name `"), "%s",
			  err.message);
		cr_assert(strstr(err.message, bad[i]), "%s", err.message);
	}
}

Test(config_interface, address_is_one_that_an_interface_can_have)
{
	static const char *const good[] = { "06:00:ac:10:00:02", "AA:FC:00:00:00:01",
					    "00:00:00:00:00:01" };
	static const char *const bad[] = { "",
					   "06:00:ac:10:00",
					   "06:00:ac:10:00:02:03",
					   "06-00-ac-10-00-02",
					   "06:00:ac:10:00:0g",
					   "6:0:ac:10:0:2",
					   "01:00:5e:00:00:01",
					   "ff:ff:ff:ff:ff:ff",
					   "00:00:00:00:00:00",
					   " 06:00:ac:10:00:0",
					   "06:00:ac:10:00:02\n",
					   "+6:00:ac:10:00:02" };
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		cr_assert_eq(check("eth0", "tap0", good[i], 0, &err), 0, "%s", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_eq(check("eth0", "tap0", bad[i], 0, &err), -EINVAL, "%s", bad[i]);
		cr_assert(strstr(err.message, "network interface eth0: guest_mac "), "%s",
			  err.message);
		cr_assert(strstr(err.message, bad[i]), "%s", err.message);
	}
}

Test(config_interface, address_is_parsed)
{
	static const uint8_t expected[] = { 0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0xff };
	uint8_t mac[CONFIG_MAC_BYTES];

	cr_assert(config_parse_mac("0a:1B:2c:3D:4e:fF", mac));
	cr_assert_eq(memcmp(mac, expected, sizeof(mac)), 0);
	cr_assert_not(config_parse_mac("0a:1B:2c:3D:4e", mac));
}

Test(config_interface, missing_address_is_made_up_and_a_given_one_kept)
{
	struct network_interface_config interface = { 0 };
	uint8_t first[CONFIG_MAC_BYTES], second[CONFIG_MAC_BYTES];
	struct error err;

	cr_assert_eq(config_complete_mac(&interface, &err), 0);
	cr_assert(config_parse_mac(interface.guest_mac, first));
	cr_assert_eq(first[0] & 3, 2, "for one station, administered locally: %s",
		     interface.guest_mac);
	free(interface.guest_mac);
	interface.guest_mac = NULL;
	cr_assert_eq(config_complete_mac(&interface, &err), 0);
	cr_assert(config_parse_mac(interface.guest_mac, second));
	cr_assert_neq(memcmp(first, second, sizeof(first)), 0, "two are the same");
	free(interface.guest_mac);

	interface.guest_mac = strdup("AA:FC:00:00:00:0B");
	cr_assert_eq(config_complete_mac(&interface, &err), 0);
	cr_assert_str_eq(interface.guest_mac, "aa:fc:00:00:00:0b");
	free(interface.guest_mac);
}
